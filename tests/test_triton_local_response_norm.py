"""What is particular to the Triton kernels of local_response_norm: runs of channels, halos, powers, wide windows."""

from __future__ import annotations

import math

import pytest
import torch
import triton.language as tl
from torch import Tensor

from alexkern.accuracy import assert_same
from alexkern.backends.torch import local_response_norm as reference
from alexkern.cost.model import cdiv
from alexkern.kernels import local_response_norm as kernels
from alexkern.kernels.config import TARGETS, Blocks
from alexkern.plan import Spec, in_planes, like
from support.backends import DEVICE
from support.canaries import canaries
from support.far import LIMIT, interpreted, last_program, sparse, sparse_images, whole
from support.references import hold

DTYPES = (torch.float32, torch.float16)


def check(x: Tensor, size: int, alpha: float, beta: float, k: float, generator: torch.Generator) -> None:
    grad = torch.randn(x.shape, generator=generator).to(x.dtype).to(DEVICE)
    arguments = (size, alpha, beta, k)
    with canaries() as buffers:
        output = kernels.forward(x, *arguments)
        (gradient,) = kernels.backward(grad, x, *arguments, (True,))
    assert buffers
    assert output.stride() == gradient.stride() == like(x).stride
    hold((output,), lambda *given: reference.forward(*given, *arguments), x)
    hold((gradient,), lambda *given: reference.backward(*given, *arguments, (True,)), grad, x)


def layouts(x: Tensor) -> dict[str, Tensor]:
    return {
        "nchw": x,
        "nhwc": x.movedim(1, -1).contiguous().movedim(-1, 1),
        "channels between": x.transpose(1, 2).contiguous().transpose(1, 2),
        "slice": torch.cat((x, x), 1)[:, 1 : 1 + x.shape[1]],
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "channels between", "slice"])
@pytest.mark.parametrize(
    "shape, size",
    [
        ((2, 16, 3, 3), 5),
        ((1, 24, 2, 2), 9),
        ((2, 8, 3), 4),
        ((1, 8, 2, 1, 3), 6),
        ((1, 5, 3, 2), 3),
        ((3, 8, 1, 1), 2),
    ],
)
def test_runs_and_halos(
    shape: tuple[int, ...], size: int, layout: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    x = (2 * torch.randn(shape, generator=generator)).to(dtype).to(DEVICE)
    check(layouts(x)[layout], size, 0.5, 0.75, 2.0, generator)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape, size", [((2, 40, 3), 12), ((1, 6, 2, 2), 31), ((1, 12, 5, 60), 10)])
def test_windows_wider_than_registers(
    shape: tuple[int, ...], size: int, layout: str, generator: torch.Generator
) -> None:
    x = torch.randn(shape, generator=generator).to(DEVICE)
    check(layouts(x)[layout], size, 0.5, 0.75, 1.0, generator)


@interpreted
@pytest.mark.parametrize(
    ("size", "layout", "dtype", "wanted"),
    [
        (5, "nhwc", torch.float32, (4, 4, 4, True)),
        (9, "nhwc", torch.float32, (8, 8, 8, True)),
        (9, "nhwc", torch.float16, (8, 8, 8, True)),
        (4, "nchw", torch.float32, (3, 4, 1, False)),
        (9, "nchw", torch.float16, (8, 8, 1, False)),
    ],
)
def test_halos_are_no_wider_than_they_need_to_be(
    size: int, layout: str, dtype: torch.dtype, wanted: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The halo, a run's channels, what divides C, and whether runs are loaded whole."""
    kernel = last_program(monkeypatch, kernels, "local_response_norm_forward_kernel")
    kernels.forward(layouts(torch.ones(1, 24, 2, 2, dtype=dtype))[layout], size, 0.5, 0.75, 2.0)
    assert kernel.args[12:16] == wanted


def test_smaller_programs_where_larger_ones_would_not_fill_the_device() -> None:
    enough = 128 * 8 * 2 * TARGETS[90].num_sms
    assert kernels.configure(enough, TARGETS[90]) == Blocks(128, 4)
    assert kernels.configure(enough - 1, TARGETS[90]) == Blocks(64, 2)


@interpreted
@pytest.mark.parametrize(("pixels", "block"), [(3, 4), (256, 256), (300, 256)])
def test_programs_of_wide_windows(pixels: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = last_program(monkeypatch, kernels, "wide_window_kernel")
    kernels.forward(torch.ones(1, 12, pixels), kernels.MAX_HALO + 2, 0.5, 0.75, 2.0)
    assert kernel.args[-1] == block


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, -1.0])
def test_powers(beta: float, generator: torch.Generator) -> None:
    x = torch.randn(1, 8, 2, 2, generator=generator).to(DEVICE)
    check(x, 3, 0.4, beta, 1.5, generator)


@pytest.mark.parametrize("beta", [0.0, 0.75, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("k", [0.0, 1.0, -0.5, -3.0])
def test_energies_of_zero_infinity_and_below_zero_are_torch_s(beta: float, k: float) -> None:
    x = torch.tensor([0.0, -0.0, 1.0, float("inf"), 2.0, float("nan"), -1.0, 0.0], device=DEVICE).reshape(1, 8, 1)
    ours, wanted = kernels.forward(x, 1, 0.5, beta, k), reference.forward(x, 1, 0.5, beta, k)
    assert torch.equal(ours.isnan(), wanted.isnan())
    torch.testing.assert_close(ours, wanted, equal_nan=True)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_channels_that_do_not_exist_add_nothing_where_k_is_zero(layout: str, generator: torch.Generator) -> None:
    """Beside a border of zeros their energy would be 0, and a power of it infinite."""
    x = 1 + torch.rand(1, 8, 2, 3, generator=generator).to(DEVICE)
    x[:, :2] = x[:, -2:] = 0
    x = layouts(x)[layout]
    grad = torch.randn(x.shape, generator=generator).to(DEVICE)
    (ours,) = kernels.backward(grad, x, 5, 1.0, 0.75, 0.0, (True,))
    torch.testing.assert_close(ours, reference.backward(grad, x, 5, 1.0, 0.75, 0.0, (True,))[0])


@pytest.mark.parametrize(
    "shape, stride, wanted",
    [
        ((2, 8, 3, 5), (120, 15, 5, 1), (15, 1)),
        ((2, 8, 3, 5), (120, 1, 40, 8), (15, 8)),
        ((2, 8, 1, 1), (8, 1, 1, 1), (1, 0)),
        ((2, 8, 3, 5), (120, 5, 40, 1), (15, 1)),  # another dimension lies between: contiguous memory instead
        ((2, 8, 3, 0), (1, 1, 1, 1), (0, 1)),
    ],
)
def test_planes(shape: tuple[int, ...], stride: tuple[int, ...], wanted: tuple[int, int]) -> None:
    _, found = in_planes(Spec(shape, stride, torch.float32))
    assert (found.L, found.strides[2]) == wanted


# Over 2**31 numbers: the last programs alone, in the interpreter


@interpreted
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_the_last_of_many_numbers(layout: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    shape, numbers = (2**15 + 1, 16, 64, 64), (5, 0.5, 0.75, 2.0)
    x, grad = (sparse_images(*shape) if layout == "nhwc" else sparse(*shape) for _ in range(2))
    x[-1], grad[-1] = whole(shape[1:], generator, -4, 5), whole(shape[1:], generator, -4, 5)
    for direction in ("forward", "backward"):
        last_program(monkeypatch, kernels, f"local_response_norm_{direction}_kernel")
    y = kernels.forward(x, *numbers)
    (dx,) = kernels.backward(grad, x, *numbers, (True,))
    assert x.numel() > LIMIT
    last = (slice(-1, None), slice(None), slice(-1, None), slice(-1, None))  # one pixel
    for ours, wanted in (
        (y, reference.forward(x[last], *numbers)),
        (dx, reference.backward(grad[last], x[last], *numbers, (True,))[0]),
    ):
        torch.testing.assert_close(ours[last][:, -8:], wanted[:, -8:], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("stage", ["forward", "shared", "gradient"])
@pytest.mark.parametrize("axis", range(3))
def test_wide_windows(axis: int, stage: str, generator: torch.Generator) -> None:
    """Few numbers, far apart along an axis: the memory between them is never touched."""
    shape, strides = (3, 12, 4), [48, 4, 1]
    strides[axis] = LIMIT // (shape[axis] - 1) + 64
    near = [whole(shape, generator, 1, 5) for _ in range(4)]  # x, grad, shared, result
    far = [sparse(LIMIT + 1024).as_strided(shape, strides).copy_(tensor) for tensor in near]
    for tensors in (near, far):
        numbers = (4, 12, *tensors[0].stride(), 0.1, 0.75, 2.0, 10, stage, "three_quarters", tl.int32, 4)
        kernels.wide_window_kernel[(36,)](*tensors, *numbers)
    for ours, wanted in zip(far, near, strict=True):
        assert_same(ours.contiguous(), wanted)


def last_pixel(x: Tensor) -> Tensor:
    """The last image's last pixel, all its channels."""
    return x[(-1, slice(None), *(-1,) * (x.dim() - 2))]


@interpreted
@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 12, 2**28 + 2**26), "nchw"), ((1, 1, LIMIT - 8), "nchw"), ((1, 12, 2**28, 1), "nhwc")],
    ids=["planes", "pixels", "pixels of 12 channels"],
)
def test_far_planes_and_pixels(shape: tuple[int, ...], layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "configure", lambda *_: Blocks(64, 2))
    places = [(cdiv(math.prod(shape[2:]), 64) - 1,), (-1,)]  # the last pixels of the first and of the last channels
    for direction in ("forward", "backward"):
        last_program(monkeypatch, kernels, f"local_response_norm_{direction}_kernel", *places)
    x, grad = (sparse_images(*shape) if layout == "nhwc" else sparse(*shape) for _ in range(2))
    last_pixel(x)[:], last_pixel(grad)[:] = 1, 1
    y = kernels.forward(x, 5, 1e-4, 0.75, 2.0)
    (dx,) = kernels.backward(grad, x, 5, 1e-4, 0.75, 2.0, (True,))
    factor = 2.0**-0.75  # alpha is less than a rounding step
    for result in last_pixel(y), last_pixel(dx):
        torch.testing.assert_close(result, torch.full_like(result, factor), rtol=2e-3, atol=0)
