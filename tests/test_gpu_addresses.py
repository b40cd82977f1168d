"""On a GPU: every operator of Triton and of CUDA C++, forward and backward, on tensors of over 2**31 elements.

dropout's is in test_triton_dropout.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from support.optional import need

need("triton")

from alexkern import dispatch  # noqa: E402
from alexkern.accuracy import assert_same  # noqa: E402
from alexkern.ops.registry import OPERATORS  # noqa: E402
from support.backends import DEVICE  # noqa: E402
from support.far import whole  # noqa: E402

LIMIT = 2**31
ROW = 16 * 64 * 64  # numbers of an image or row


def real_arguments(operator: str, N: int, generator: torch.Generator) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """The forward's arguments for N images (rows) of ROW numbers, and those for the last of them alone."""
    shape = (N, ROW) if operator == "linear_relu_dropout" else (N, 64, 64, 16)
    x = torch.zeros(shape, dtype=torch.float16, device=DEVICE)
    x[-1] = whole(shape[1:], generator).to(DEVICE)
    if operator == "linear_relu_dropout":
        w = whole((16, ROW), generator).to(DEVICE)
        seeds = (torch.tensor([3, offset], device=DEVICE) for offset in (5, 5 + (N - 1) * 16 // 4))
        more, more_alone = ((w, None, seed, 0.5, True) for seed in seeds)
        return (x, *more), (x[-1:], *more_alone)
    images, w = x.permute(0, 3, 1, 2), whole((16, 16, 1, 1), generator).to(DEVICE)
    definition = OPERATORS[operator]
    arguments = definition.training(definition.example.backend)
    if definition.multiplies:
        arguments = (w, None, *arguments)
    return (images, *arguments), (images[-1:], *arguments)


def gradients(
    operator: str, backend: str, args: tuple[object, ...], generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients for one that is 0 but in the last image."""
    definition, kernels = OPERATORS[operator], dispatch.implementation(backend, operator)
    outputs = kernels.forward(*args)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    saved, params = definition.save(args, outputs)
    grad = torch.zeros_like(outputs[0])
    grad[-1] = whole(grad.shape[1:], generator).to(DEVICE)
    needs = (True,) * definition.num_differentiable
    return outputs[0], [tensor for tensor in kernels.backward(grad, *saved, *params, needs) if tensor is not None]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("operator", [operator for operator in OPERATORS if operator != "dropout"])
def test_over_2_to_the_31_elements(operator: str, backend: str) -> None:
    """The last image of very many has the output and the gradients that it has alone; whole numbers sum exactly."""
    if reason := dispatch.missing(backend, operator, DEVICE.type, torch.float16):
        pytest.skip(reason)
    torch.cuda.empty_cache()
    wanted_gib = 32
    if torch.cuda.mem_get_info()[0] < wanted_gib * 2**30:
        pytest.skip(f"needs {wanted_gib} GiB of free GPU memory")
    results = []
    for alone in (False, True):
        generator = torch.Generator().manual_seed(1)
        arguments = real_arguments(operator, LIMIT // ROW + 1, generator)[alone]
        results.append(gradients(operator, backend, arguments, generator))
    (output, grads), (output_alone, grads_alone) = results
    assert_same(output[-1:], output_alone, "output")
    for ours, alone in zip(grads, grads_alone, strict=True):
        assert_same(ours if ours.shape == alone.shape else ours[-1:], alone, "gradient")
