"""Every operator, backend, route, dtype and shape: values and gradients by the accuracy rule, within their memory."""

from __future__ import annotations

import pytest
import torch

import alexkern
from alexkern.accuracy import assert_same
from support import cases, oracle, routes
from support.backends import DEVICE, combination, dtypes, is_slow, serving
from support.canaries import canaries
from support.cases import CASES, Case, Tensors, channels_last, each

# In the interpreter: small shapes in single precision, and one or two of each kind in half.
LARGE = (*cases.ALEXNET_CONVOLUTIONS, *cases.CONVOLUTIONS_WITH_POOL[:4])
SMALL = [case for case in CASES if case not in LARGE and str(case) != "conv2d_relu-channels_96"]
HALF = ("conv2d_relu-stride_4_first_layer", "conv2d_relu-groups_3", "conv2d_relu_max_pool2d-uneven")
QUICK = [
    *((case, torch.float16) for case in (*cases.POOLS[:2], *cases.LINEARS[:2], *cases.NORMS[:2])),
    *((case, torch.float16) for case in SMALL if str(case) in HALF),
    *((case, torch.float32) for case in SMALL),
]
COMBINATIONS = [
    combination(case, backend, dtype, quick=(case, dtype) in QUICK)
    for case in CASES
    for backend in serving(case.operator)
    for dtype in dtypes(backend)
]


@pytest.mark.parametrize(("case", "backend", "dtype"), COMBINATIONS)
def test_values_and_gradients(case: Case, backend: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    tensors = case.draw(dtype, DEVICE, generator)
    with alexkern.backend(backend), canaries():
        output, _ = routes.run("direct", case, tensors, None)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)
    hold = oracle.judge(case, tensors, output, backend, grad)
    first: Tensors = []
    # What differs between routes is the same code for all backends: one is enough where a call takes seconds.
    definition = ("func",) if backend == "torch" else ()
    for route in (*(routes.GRADIENT_ROUTES[:1] if is_slow(backend) else routes.GRADIENT_ROUTES), *definition):
        with alexkern.backend(backend), canaries():
            again, grads = routes.run(route, case, tensors, grad)
        hold(again, grads, f" by route {route}")
        if route in routes.GRADIENT_ROUTES:
            # The same bits by every route, which is also the same bits in two runs.
            assert_same(again, output, f"output by route {route}")
            first = first or grads
            for ours, wanted in zip(grads, first, strict=True):
                assert ours is None or torch.equal(ours, wanted)


@pytest.mark.parametrize(
    ("case", "backend"),
    [combination(case, backend, quick=case in SMALL) for case in CASES for backend in serving(case.operator)],
)
def test_output_format_is_torchs(case: Case, backend: str, generator: torch.Generator) -> None:
    """channels_last in, channels_last out; contiguous in, contiguous out: by torch's own rule, stride by stride."""
    drawn = case.draw(torch.float32, DEVICE, generator)
    for tensors in (drawn, each(channels_last, drawn)):
        with alexkern.backend(backend):
            output, _ = routes.run("direct", case, tensors, None)
        wanted = oracle.plain(case, tensors, oracle.keep(case, tensors))
        assert output.shape == wanted.shape
        if "dropout" not in case.operator and output.numel():
            assert output.is_contiguous() == wanted.is_contiguous()
            assert output.dim() != 4 or output.is_contiguous(memory_format=torch.channels_last) == (
                wanted.is_contiguous(memory_format=torch.channels_last)
            )
