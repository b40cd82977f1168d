"""Results are checked before they are timed: a fast wrong answer wins nothing.

These checks tell a right result from a wrong one; how accurate it is, is what the tests are for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The share of the reference's norm that the difference may have. One pooling winner that a rounding decides otherwise
# moves a whole gradient value, so float32 gets more room than rounding alone would need. In bfloat16 convolutions in
# fewer products on a CPU, whose points are rounded, are off by 8.9% so (docs/cpu.md).
TOLERANCE = {torch.float32: 1e-2, torch.float16: 3e-2, torch.bfloat16: 1.2e-1}


class WrongResult(Exception):
    """A variant computed something else than the reference."""


def check_close(results: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Holds every tensor of `results` to its float reference: same shape, finite, norm of the difference in bounds."""
    if len(results) != len(expected):
        raise WrongResult(f"{len(results)} tensors where {len(expected)} are expected")
    for index, (result, reference) in enumerate(zip(results, expected, strict=True)):
        if result.shape != reference.shape:
            raise WrongResult(f"tensor {index} has shape {tuple(result.shape)}, expected {tuple(reference.shape)}")
        difference = torch.linalg.vector_norm(result.float() - reference.float()).item()
        bound = TOLERANCE[result.dtype] * torch.linalg.vector_norm(reference.float()).item()
        if not difference <= bound:
            raise WrongResult(f"tensor {index} is off by {difference:.3g} in norm, allowed {bound:.3g}")


def check_kept(output: Tensor, candidates: Tensor, p: float) -> None:
    """Holds a dropout's share of kept values, among the non-zero `candidates`, to 1 - p."""
    share = ((output != 0) & (candidates != 0)).sum().item() / (candidates != 0).sum().item()
    if abs(share - (1 - p)) > 0.05:
        raise WrongResult(f"dropout kept a share of {share:.3f}, expected {1 - p:.3f}")


def check_gradient_norms(gradients: Sequence[Tensor | None], expected: Sequence[Tensor]) -> None:
    """Holds a training step's gradients to another draw of dropout: every norm within a factor of 2."""
    for index, (gradient, reference) in enumerate(zip(gradients, expected, strict=True)):
        if gradient is None:
            raise WrongResult(f"parameter {index} got no gradient")
        ratio = (torch.linalg.vector_norm(gradient.float()) / torch.linalg.vector_norm(reference.float())).item()
        if not 0.5 < ratio < 2:
            raise WrongResult(f"the gradient of parameter {index} has {ratio:.3g} times the norm expected")
