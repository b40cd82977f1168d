"""local_response_norm: every value divided by a power of the energy of its neighbours in the channel dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from alexkern.errors import argument_error
from alexkern.ops import checks
from alexkern.ops.autocast import autocast
from alexkern.ops.description import IMAGE, Example
from alexkern.ops.layer import Layer
from alexkern.ops.operator import Operator
from alexkern.references.local_response_norm import REFERENCE


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Local response normalisation across channels.

    ``input / (k + alpha / size * sum of squares over size channels) ** beta``, arguments and defaults of
    :func:`torch.nn.functional.local_response_norm`. It is the paper's section 3.3 (Krizhevsky, Sutskever, Hinton 2012)
    with alpha / size for its alpha: the paper's alpha = 1e-4 over n = 5 is alpha=5e-4 here. The sum and the power are
    taken in float32 (float64 for float64), and rounded once. Under autocast the result is float32, as in torch.

    Args:
        input: shape (N, C, *), at least 3-D, channels in dimension 1 as in torch; float32, float16, bfloat16 or, on the
            torch backend, float64.
        size: how many neighbouring channels are summed, itself included: size // 2 before it, (size - 1) // 2 after.
        alpha, beta, k: as above.

    Returns:
        Tensor of input's shape, laid out as torch.empty_like(input).

    Saved for backward: input.

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) size not in 1 to 2**28, or a shape or dtype that does not fit.
    """
    name = "local_response_norm"
    if has_torch_function_unary(input):
        return handle_torch_function(local_response_norm, (input,), input, size, alpha, beta, k)
    checks.floating(name, "input", input)
    if input.dim() < 3:
        raise argument_error(name, "input", f"shape {tuple(input.shape)}", "(N, C, *) of at least 3 dimensions")
    size = checks.integer(name, "size", size)
    if not 1 <= size <= checks.MOST:
        raise argument_error(name, "size", size, "at least 1 and at most 2**28")
    alpha, beta = checks.number(name, "alpha", alpha), checks.number(name, "beta", beta)
    k = checks.number(name, "k", k)
    if torch._C._is_any_autocast_enabled():
        (input,) = autocast(input, dtype=torch.float32)
    return OPERATOR(input, size, alpha, beta, k)


def read(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Layer:
    return Layer(kind=nn.LocalResponseNorm, size=size, alpha=alpha, beta=beta, k=k)


class LocalResponseNorm(Operator):
    name = "local_response_norm"
    schema = "Tensor input, int size, float alpha, float beta, float k"
    backward_schema = "Tensor input, int size, float alpha, float beta, float k"
    layers = ((nn.LocalResponseNorm,),)
    spellings = {F.local_response_norm: read}
    reference = REFERENCE
    example = Example((IMAGE,), (5, 0.5, 0.75, 2.0), (5, 0.5, 0.75, 2.0))

    def arguments(self, *modules: Any) -> dict[str, Any]:
        (norm,) = modules
        return {"size": norm.size, "alpha": norm.alpha, "beta": norm.beta, "k": norm.k}


OPERATOR = LocalResponseNorm()
