"""Every operator, backend, route, dtype and shape: values and gradients by the accuracy rule, within their memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import alexkern
from alexkern.accuracy import assert_accurate, assert_same
from support import oracle, routes
from support.backends import DEVICE, combination, dtypes, is_slow, serving
from support.canaries import canaries
from support.cases import ALEXNET_CONVOLUTIONS, CASES, CONVOLUTIONS_WITH_POOL, LINEARS, NORMS, POOLS, Case

# In the interpreter: small shapes in single precision, and one or two of each kind in half.
LARGE = (*ALEXNET_CONVOLUTIONS, *CONVOLUTIONS_WITH_POOL[:4])
SMALL = [case for case in CASES if case not in LARGE and str(case) != "conv2d_relu-channels_96"]
HALF = ("conv2d_relu-stride_4_first_layer", "conv2d_relu-groups_3", "conv2d_relu_max_pool2d-uneven")
QUICK = [
    *((case, torch.float16) for case in (*POOLS[:2], *LINEARS[:2], *NORMS[:2])),
    *((case, torch.float16) for case in SMALL if str(case) in HALF),
    *((case, torch.float32) for case in SMALL),
]
COMBINATIONS = [
    combination(case, backend, dtype, quick=(case, dtype) in QUICK)
    for case in CASES
    for backend in serving(case.operator)
    for dtype in dtypes(backend)
]


def wide(tensors: list[Tensor | None], dtype: torch.dtype | None) -> list[Tensor | None]:
    """Leaves of their own, in another dtype or the same."""
    return [None if tensor is None else tensor.detach().to(dtype).clone().requires_grad_() for tensor in tensors]


def gradients(case: Case, tensors: list[Tensor | None], choices: oracle.Choices, grad: Tensor) -> list[Tensor | None]:
    leaves = wide(tensors, grad.dtype)
    present = [leaf for leaf in leaves if leaf is not None]
    found = iter(torch.autograd.grad(oracle.differentiable(case, leaves, choices), present, grad))
    return [None if leaf is None else next(found) for leaf in leaves]


@pytest.mark.parametrize(("case", "backend", "dtype"), COMBINATIONS)
def test_values_and_gradients(case: Case, backend: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    tensors = case.draw(dtype, DEVICE, generator)
    with alexkern.backend(backend), canaries():
        output, _ = routes.run("direct", case, tensors, None)
    choices = oracle.choices(case, tensors, output, backend)
    doubles = [None if tensor is None else tensor.double() for tensor in tensors]
    values = oracle.plain(case, doubles, choices.keep), oracle.plain(case, tensors, choices.keep)
    assert_accurate(output, *values, "output")
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)
    references = gradients(case, doubles, choices, grad.double())
    torchs = gradients(case, tensors, choices, grad)
    first: list[Tensor | None] | None = None
    # What differs between routes is the same code for all backends: one is enough where a call takes seconds.
    definition = ("func",) if backend == "torch" else ()
    for route in (*(routes.GRADIENT_ROUTES[:1] if is_slow(backend) else routes.GRADIENT_ROUTES), *definition):
        with alexkern.backend(backend), canaries():
            again, grads = routes.run(route, case, tensors, grad)
        if route in routes.GRADIENT_ROUTES:
            assert_same(again, output, f"output by route {route}")
        else:
            assert_accurate(again, *values, f"output by route {route}")
        for name, ours, reference, torchs_own, tensor in zip(
            ("input", "weight", "bias"), grads, references, torchs, tensors, strict=False
        ):
            if tensor is None:
                assert ours is None
                continue
            assert ours is not None and reference is not None and torchs_own is not None
            assert_accurate(ours, reference, torchs_own, f"{name}'s gradient by route {route}")
        if route not in routes.GRADIENT_ROUTES:
            continue
        # The same bits by every route, which is also the same bits in two runs.
        first = grads if first is None else first
        for ours, wanted in zip(grads, first, strict=True):
            assert ours is None or wanted is None or torch.equal(ours, wanted)


@pytest.mark.parametrize(
    ("case", "backend"),
    [combination(case, backend, quick=case in SMALL) for case in CASES for backend in serving(case.operator)],
)
def test_output_format_is_torchs(case: Case, backend: str, generator: torch.Generator) -> None:
    """channels_last in, channels_last out; contiguous in, contiguous out: by torch's own rule, stride by stride."""
    for channels_last in (False, True):
        tensors = case.draw(torch.float32, DEVICE, generator)
        if channels_last:
            tensors = [
                tensor.contiguous(memory_format=torch.channels_last)
                if tensor is not None and tensor.dim() == 4
                else tensor
                for tensor in tensors
            ]
        with alexkern.backend(backend):
            output, _ = routes.run("direct", case, tensors, None)
        wanted = oracle.plain(case, tensors, oracle.keep(case, tensors) if "dropout" in case.operator else None)
        assert output.shape == wanted.shape
        if "dropout" not in case.operator and output.numel():
            assert output.is_contiguous() == wanted.is_contiguous()
            assert output.dim() != 4 or output.is_contiguous(memory_format=torch.channels_last) == (
                wanted.is_contiguous(memory_format=torch.channels_last)
            )
