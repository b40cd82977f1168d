"""Shapes and arguments that nobody thought of: hypothesis draws them, the accuracy rule judges."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import alexkern
from support import oracle, routes
from support.backends import DEVICE, serving
from support.canaries import canaries
from support.cases import Case, channels_last
from support.optional import need

need("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402


def counts(most: int) -> st.SearchStrategy[int]:
    """Of channels, features or pixels: small ones, and those about the widths of vectors and tiles, prime ones too."""
    edges = [size for size in (4, 7, 8, 13, 15, 16, 17, 31, 32, 33, 61, 64, 67, 127, 128, 129) if size <= most]
    return st.integers(1, 6) | st.sampled_from(edges)


@st.composite
def convolutions(draw: Any) -> Case:
    groups = draw(st.integers(1, 3))
    C, K = groups * draw(counts(17)), groups * draw(counts(33))
    R, S = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride, padding, dilation = (
        (draw(st.integers(low, high)), draw(st.integers(low, high))) for low, high in ((1, 4), (0, 3), (1, 2))
    )
    smallest = [max(dilation[axis] * (size - 1) + 1 - 2 * padding[axis], 1) for axis, size in enumerate((R, S))]
    H, W = (size + draw(st.integers(0, 6)) for size in smallest)
    bias = (K,) if draw(st.booleans()) else None
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    shapes = ((draw(st.integers(0, 3)), C, H, W), (K, C // groups, R, S), bias)
    return Case("conv2d_relu", "drawn", shapes, arguments)


@st.composite
def pools(draw: Any) -> Case:
    window = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    stride = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    padding = tuple(draw(st.integers(0, size // 2)) for size in window)
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    smallest = [dilation[axis] * (window[axis] - 1) + 1 - 2 * padding[axis] for axis in (0, 1)]
    # As large as the dilation at least: a window has a pixel then, as torch's index of its winner supposes.
    H, W = (max(size, least) + draw(st.integers(0, 7)) for size, least in zip(smallest, dilation, strict=True))
    shape = (draw(st.integers(0, 3)), draw(counts(33)), H, W)
    arguments = {"kernel_size": window, "stride": stride, "padding": padding, "dilation": dilation}
    return Case("max_pool2d", "drawn", (shape,), arguments | {"ceil_mode": draw(st.booleans())})


@st.composite
def norms(draw: Any) -> Case:
    shape = (draw(st.integers(0, 3)), draw(counts(33)), *(draw(counts(8)) for _ in range(draw(st.integers(1, 3)))))
    arguments = {"size": draw(st.integers(1, 9) | counts(33)), "alpha": draw(st.sampled_from([1e-4, 0.1, 1.0]))}
    return Case("local_response_norm", "drawn", (shape,), arguments | {"beta": draw(st.sampled_from([0.5, 0.75, 1.0]))})


@st.composite
def linears(draw: Any) -> Case:
    in_features, out_features = draw(counts(129)), draw(counts(129))
    shape = (*(draw(st.just(0) | counts(17)) for _ in range(draw(st.integers(0, 2)))), in_features)
    bias = (out_features,) if draw(st.booleans()) else None
    return Case(
        "linear_relu_dropout",
        "drawn",
        (shape, (out_features, in_features), bias),
        {"p": draw(st.sampled_from([0.0, 5e-324, 0.3, 0.5, 1.0]))},
    )


def padded_beyond_filter(case: Case) -> bool:
    """Whether whole windows lie in the padding. torch's own convolution over channels_last may crash on a CPU then."""
    arguments = case.arguments
    if case.operator != "conv2d_relu":
        return False
    reach = [dilation * (size - 1) for dilation, size in zip(arguments["dilation"], case.shapes[1][2:], strict=True)]
    return any(padding > most for padding, most in zip(arguments["padding"], reach, strict=True))


def check(case: Case, backend: str, seed: int, in_channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = case.draw(torch.float32, DEVICE, generator)
    if in_channels_last and not padded_beyond_filter(case):
        tensors[0] = channels_last(tensors[0])
    with alexkern.backend(backend), canaries():
        output, _ = routes.run("direct", case, tensors, None)
    grad = torch.randn(output.shape, generator=generator).to(DEVICE)
    with alexkern.backend(backend), canaries():
        _, grads = routes.run("autograd", case, tensors, grad)
    oracle.judge(case, tensors, output, backend, grad, scaled=True)(output, grads)


def examples(backend: str) -> int:
    """Triton's interpreter is about fifty times slower than the others."""
    return 8 if backend == "triton" and DEVICE.type == "cpu" else 60


STRATEGIES = {
    "conv2d_relu": convolutions(),
    "max_pool2d": pools(),
    "local_response_norm": norms(),
    "linear_relu_dropout": linears(),
}


@pytest.mark.parametrize("times", [1, pytest.param(12, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("operator", "backend"), [(operator, backend) for operator in STRATEGIES for backend in serving(operator)]
)
def test_drawn_cases(operator: str, backend: str, times: int) -> None:
    """The same ones in every run, and in the long half many more, other ones each time."""
    count = times * examples(backend)

    @settings(max_examples=count, deadline=None, derandomize=times == 1, suppress_health_check=list(HealthCheck))
    @given(STRATEGIES[operator], st.integers(0, 2**31), st.booleans())
    def run(case: Case, seed: int, in_channels_last: bool) -> None:
        check(case, backend, seed, in_channels_last)

    run()
