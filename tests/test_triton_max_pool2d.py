"""What is particular to the Triton kernels of max_pool2d: strips, tiles, gathering, addresses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from alexkern.accuracy import assert_same
from alexkern.backends.torch import max_pool2d as reference
from alexkern.geometry import CLIPPED, pooling
from alexkern.kernels import max_pool2d as kernels
from alexkern.kernels.config import TARGETS, rehearse
from alexkern.plan import nchw
from support.backends import DEVICE
from support.canaries import canaries
from support.far import interpreted, last_program
from support.references import hold

FORMATS = (torch.contiguous_format, torch.channels_last)
NAN, INF = float("nan"), float("inf")


def draw(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Few different values, so that windows tie; NaN, both infinities (whole windows of -inf), both zeros."""
    pool = torch.tensor([0.0, -0.0, 1.0, -1.0, NAN, INF, -INF, -INF, -INF, -INF, -INF, -INF, -2.0])
    return pool[torch.randint(len(pool), shape, generator=generator)].to(dtype).to(DEVICE)


def check(input: Tensor, *window: Any) -> Tensor:
    with canaries() as buffers:
        output, offsets = kernels.forward(input, *window, True)
        alone, none = kernels.forward(input, *window, False)
    assert len(buffers) == 3 and none is None
    wanted, wanted_offsets = reference.forward(input, *window, True)
    assert output.stride() == wanted.stride() and offsets.stride() == output.stride()
    assert_same(output, wanted, "output")
    assert_same(alone, wanted, "output without offsets")
    assert_same(offsets, wanted_offsets, "offsets")
    return offsets


AlexNet = ((3, 3), (2, 2), (0, 0), (1, 1), False)
WINDOWS = {
    "2x2": ((2, 2), (2, 2), (0, 0), (1, 1), False),
    "padded": ((3, 3), (2, 2), (1, 1), (1, 1), False),
    "ceil": ((3, 3), (2, 2), (0, 0), (1, 1), True),
    "dilated": ((3, 2), (2, 1), (1, 1), (2, 3), True),
    "gaps": ((2, 2), (3, 4), (0, 0), (1, 1), False),
    "17x17": ((17, 17), (3, 3), (8, 8), (1, 1), False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("memory_format", FORMATS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_strips_of_any_length(
    rows: int, memory_format: torch.memory_format, dtype: torch.dtype, generator: torch.Generator
) -> None:
    shape = (2, 24, 11, 8)
    input = draw(shape, dtype, generator).contiguous(memory_format=memory_format)
    entry = {("max_pool2d.forward", shape, str(dtype).removeprefix("torch.")): {"ROWS": rows}}
    with rehearse(TARGETS[80], entry) as choices:
        check(input, *AlexNet)
    assert [tried[0].ROWS for tried in choices.values()] == ([rows] if memory_format is torch.channels_last else [])


@pytest.mark.parametrize("memory_format", FORMATS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", WINDOWS)
def test_any_window(name: str, memory_format: torch.memory_format, generator: torch.Generator) -> None:
    input = draw((1, 3, 9, 11), torch.float16, generator).contiguous(memory_format=memory_format)
    check(input, *WINDOWS[name])


@pytest.mark.parametrize("window", [AlexNet, WINDOWS["padded"]], ids=["strips", "taps"])
@pytest.mark.parametrize("layout", ["expanded", "transposed", "slice of channels", "odd start", "every other"])
def test_any_strides(layout: str, window: tuple[Any, ...], generator: torch.Generator) -> None:
    x = draw((2, 16, 7, 9), torch.float32, generator)
    last = x.contiguous(memory_format=torch.channels_last)
    input = {
        "expanded": x[:, :1, :, :1].expand(2, 16, 7, 9),
        "transposed": x.transpose(2, 3),
        "slice of channels": last[:, 3:11],
        "odd start": last.flatten().as_strided((1, 8, 5, 5), (200, 1, 40, 8), 1),
        "every other": last[:, ::2, 1:, ::2],
    }[layout]
    check(input, *window)


@pytest.mark.parametrize("dtype, relu", [(torch.float32, False), (torch.float16, True)], ids=["plain", "relu"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "expanded", "slice", "other format"])
@pytest.mark.parametrize("name", ["AlexNet", "padded", "dilated", "gaps", "17x17"])
def test_backward_gathers(name: str, layout: str, relu: bool, dtype: torch.dtype, generator: torch.Generator) -> None:
    *window, ceil_mode = AlexNet if name == "AlexNet" else WINDOWS[name]
    memory_format = torch.contiguous_format if layout == "nchw" else torch.channels_last
    input = torch.randn(2, 16, 7, 9, generator=generator).to(dtype).to(DEVICE)
    input = input.contiguous(memory_format=memory_format)
    input[0, 0] = NAN
    output, offsets = reference.forward(input, *window, ceil_mode, True)
    offsets = offsets.contiguous(memory_format=memory_format)
    grad = torch.randn(output.shape, generator=generator).to(dtype).to(DEVICE)
    grad = {
        "nchw": grad,
        "nhwc": grad.contiguous(memory_format=torch.channels_last),
        "expanded": grad[:1, :1, :1, :1].expand_as(grad),
        "slice": torch.cat((grad, grad), 1).contiguous(memory_format=torch.channels_last)[:, 3:19],
        "other format": grad,
    }[layout]
    channels_last, windows = memory_format is torch.channels_last, pooling(input.shape, *window)
    kept = offsets.masked_fill(output <= 0, CLIPPED[offsets.dtype]) if relu else offsets
    with canaries():
        ours = kernels.gather(grad, kept, windows, channels_last)
    assert ours.stride() == nchw(tuple(input.shape), dtype, channels_last).stride
    masked = torch.where(output <= 0, 0.0, grad) if relu else grad
    saved = (offsets, tuple(input.shape), channels_last, *window, ceil_mode, (True,))
    hold((ours,), lambda given: reference.backward(given, *saved), masked)
    again = kernels.gather(grad, kept, windows, channels_last)
    assert_same(again, ours, "a second run")


def test_more_images_than_a_grid_holds(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(kernels, "MAX_GRID_Z", 2)
    input = draw((5, 4, 5, 5), torch.float32, generator)
    offsets = check(input, *AlexNet)
    check(input, *WINDOWS["padded"])
    grad = torch.randn(offsets.shape, generator=generator).to(DEVICE)
    saved = (offsets, tuple(input.shape), False, *AlexNet, (True,))
    assert_same(kernels.backward(grad, *saved)[0], reference.backward(grad, *saved)[0])


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize(
    "channels, block_c, idle", [(64, 64, 0), (96, 32, 0), (192, 64, 0), (256, 128, 0), (100, 16, 12), (3, 4, 1)]
)
def test_tiles_leave_few_channels_idle(channels: int, block_c: int, idle: int, target: int) -> None:
    config = kernels.configure((128, channels, 27, 27), True, True, TARGETS[target])
    assert config.BLOCK_C == block_c and -channels % config.BLOCK_C == idle
    assert config.BLOCK_P * config.BLOCK_C == 8 * 32 * config.num_warps


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((128, 64, 27, 27), (1024, 1)),
        ((1, 96, 13, 13), (256, 4)),
        ((1, 3, 2, 2), (4, 4)),
        ((1, 1, 2, 2), (4, 1)),
        ((1, 70000, 64, 64), (512, 2)),
    ],
)
def test_eight_elements_a_thread_of_planes(shape: tuple[int, int, int, int], tile: tuple[int, int]) -> None:
    """Or all there are; and as few programs as a grid's axis can have."""
    config = kernels.configure(shape, False, True, TARGETS[90])
    assert (config.BLOCK_P, config.BLOCK_C) == tile


@interpreted
@pytest.mark.parametrize(
    ("name", "reach"), [("AlexNet", (2, 2)), ("gaps", (1, 1)), ("dilated", (3, 4)), ("17x17", (6, 6))]
)
def test_no_more_windows_than_may_hold_a_pixel(
    name: str, reach: tuple[int, int], monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    window = WINDOWS.get(name, AlexNet)
    output, offsets = kernels.forward(torch.ones(1, 1, 9, 11), *window, True)
    kernel = last_program(monkeypatch, kernels, "max_pool2d_backward_kernel")
    kernels.backward(output, offsets, (1, 1, 9, 11), False, *window, (True,))
    assert kernel.args[28:30] == reach


@interpreted
@pytest.mark.parametrize(
    ("size", "unrolled"), [((4, 4), True), ((2, 8), True), ((8, 2), True), ((6, 3), False), ((3, 6), False)]
)
def test_sixteen_taps_are_unrolled(size: tuple[int, int], unrolled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    window = (size, (1, 1), (0, 0), (1, 1), False)
    forward = last_program(monkeypatch, kernels, "max_pool2d_forward_kernel")
    backward = last_program(monkeypatch, kernels, "max_pool2d_backward_kernel")
    output, offsets = kernels.forward(torch.ones(1, 1, 9, 9), *window, True)
    kernels.backward(output, offsets, (1, 1, 9, 9), False, *window, (True,))
    assert (forward.args[27], backward.args[32]) == (unrolled, unrolled)


def test_strips_are_long_only_where_there_is_work_for_all() -> None:
    assert kernels.configure((128, 64, 27, 27), True, True, TARGETS[90]).ROWS == 3
    assert kernels.configure((1, 64, 27, 27), True, True, TARGETS[90]).ROWS == 1
    assert kernels.configure((128, 64, 27, 27), True, False, TARGETS[90]).ROWS == 1
