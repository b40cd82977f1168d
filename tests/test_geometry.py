"""The sizes of a convolution: against torch's, and as native code reads them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends import extension
from alexkern.backends.cuda import emulated
from alexkern.backends.torch import max_pool2d
from alexkern.geometry import CLIPPED, Geometry, convolution, offset_dtype, pooled_size, pooling

PAIRS = ((2, 3), (1, 0), (2, 1))  # stride, padding, dilation


def calls(module: ModuleType) -> list[Callable[[object], object]]:
    """What takes a geometry alone: a convolution on a GPU, and the workspaces of the processor's kernels."""
    if module is extension.cpu.module:
        return [lambda geometry: module.winograd_workspace(geometry, False, 2)]
    rest = (False, 0, 4, 0, 0, 0, 4, 0, (0, 0, 0, 0), (0, 1), 0)
    return [lambda geometry: module.conv2d_relu_convolve(0, False, geometry, *rest)]


@pytest.fixture
def bindings() -> list[ModuleType]:
    """Those that are here: compiled for GPUs, for the emulator, and for this processor."""
    found = [extension.cuda.module, None if emulated.missing() else emulated.load(), extension.cpu.module]
    if not any(found):
        reasons = (extension.cuda.why_not, emulated.missing(), extension.cpu.why_not)
        pytest.skip(f"no kernels are compiled here: {'; '.join(map(str, reasons))}")
    return [module for module in found if module is not None]


def operands(*size: int) -> tuple[Tensor, Tensor]:
    return torch.empty((2, 6, *size), device="meta"), torch.empty((8, 3, 3, 4), device="meta")


def test_the_bindings_have_the_fields_of_a_geometry_in_their_order(bindings: list[ModuleType]) -> None:
    for module in bindings:
        assert module.geometry == Geometry._fields


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields[:-1],
        lambda fields: (*fields, 1),
        lambda fields: (fields[7], *fields[1:]),
        lambda fields: (*fields[:7], 1, *fields[8:]),
        lambda fields: (*fields[:7], (1, 1, 1), *fields[8:]),
        lambda fields: (2.0, *fields[1:]),
        lambda fields: (2**63, *fields[1:]),
        lambda fields: list(fields),
    ],
    ids=["one less", "one more", "pair for number", "number for pair", "three for pair", "float", "large", "list"],
)
def test_the_bindings_refuse_what_is_no_geometry(change: object, bindings: list[ModuleType]) -> None:
    fields = tuple(convolution(*operands(9, 11), *PAIRS, 2))
    nothing = (0, *fields[1:])  # of no images: nothing is launched
    for module in bindings:
        for call in calls(module):
            call(nothing)
            with pytest.raises(TypeError, match="incompatible function arguments"):
                call(change(nothing))  # type: ignore[operator]
            if module is not extension.cpu.module:  # which counts in 64 bits
                with pytest.raises(TypeError, match="incompatible function arguments"):
                    call((2**31, *nothing[1:]))


@pytest.mark.parametrize("size", [(9, 11), (10, 12), (13, 17)], ids=str)
def test_a_convolution_has_torchs_sizes(size: tuple[int, int]) -> None:
    x, w = operands(*size)
    found = convolution(x, w, *PAIRS, 2)
    N, K, P, Q = F.conv2d(x, w, None, *PAIRS, 2).shape
    assert (found.N, found.K, found.P, found.Q) == (N, K, P, Q)
    assert (found.GEMM_M, found.GEMM_N, found.GEMM_K) == (N * P * Q, K // 2, w[0].numel())
    assert {found: 1}[convolution(x, w, *PAIRS, 2)]
    with pytest.raises(AttributeError):
        found.N = 1  # type: ignore[misc]


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_windows_have_torchs_sizes(ceil_mode: bool) -> None:
    for H, stride, padding, dilation in ((7, 2, 0, 1), (8, 3, 1, 1), (9, 2, 1, 2), (10, 3, 0, 2), (6, 4, 1, 1)):
        x = torch.empty(1, 2, H, H + 3, device="meta")
        pairs = ((3, 2), (stride, stride), (padding, padding // 2), (dilation, 1))
        wanted = F.max_pool2d(x, *pairs, ceil_mode).shape[2:]
        assert pooled_size(pooling(x.shape, *pairs), ceil_mode) == wanted


def test_a_turned_convolution_goes_from_the_output_back_to_the_input() -> None:
    forward = convolution(*operands(9, 11), (1, 1), (1, 3), (2, 1), 2)
    turned = forward.turned()
    assert (turned.C, turned.H, turned.W) == (forward.K, forward.P, forward.Q)
    assert (turned.K, turned.P, turned.Q) == (forward.C, forward.H, forward.W)
    assert turned.turned() == forward


def test_a_convolution_in_depth_has_the_same_output() -> None:
    forward = convolution(torch.empty(2, 3, 39, 31), torch.empty(8, 3, 11, 10), (4, 4), (2, 1), (1, 1), 1)
    seen = forward.in_depth(4)
    assert (seen.N, seen.K, seen.P, seen.Q) == (forward.N, forward.K, forward.P, forward.Q)
    assert (seen.C, seen.R, seen.S, seen.stride, seen.padding) == (48, 3, 3, (1, 1), (0, 0))


def test_offsets_take_a_byte_where_it_has_numbers_enough() -> None:
    tried = [(window, behind_relu) for window in ((15, 17), (16, 16), (16, 17)) for behind_relu in (False, True)]
    found = [(R, S, relu) for (R, S), relu in tried if offset_dtype(R, S, relu) is torch.uint8]
    assert found == [(15, 17, False), (15, 17, True), (16, 16, False)]
    assert torch.tensor(CLIPPED[torch.int32]).to(torch.uint8) == CLIPPED[torch.uint8]


@pytest.mark.parametrize(("window", "dtype"), [((16, 16), torch.uint8), ((16, 17), torch.int32)])
def test_torchs_pooling_keeps_offsets_in_what_is_planned(window: tuple[int, int], dtype: torch.dtype) -> None:
    image = torch.rand(1, 2, 20, 21, generator=torch.Generator().manual_seed(1))
    output, offsets = max_pool2d.forward(image, window, (2, 2), (1, 1), (1, 1), False, True)
    wanted, indices = F.max_pool2d(image, window, 2, 1, return_indices=True)
    r, s = offsets.long() // window[1], offsets.long() % window[1]
    rows, columns = torch.meshgrid(*(torch.arange(size) * 2 - 1 for size in offsets.shape[2:]), indexing="ij")
    assert offsets.dtype == dtype and torch.equal(output, wanted)
    assert torch.equal((rows + r) * 21 + columns + s, indices)
