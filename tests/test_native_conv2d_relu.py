"""conv2d_relu's CUDA kernels below the operator: tiles and splits, TF32, packing, and what the conformance suite's
choice of shapes would not force."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from alexkern.backends.cuda import compiled, conv2d_relu, layout
from alexkern.backends.torch import conv2d_relu as reference
from alexkern.cost import sm80, sm80_pooled
from alexkern.cost.chips import CHIPS
from support.backends import DEVICE, HALVES, serving
from support.canaries import canaries
from support.convolution import Args, check, draw
from support.references import all_same

pytestmark = pytest.mark.skipif("cuda" not in serving("conv2d_relu"), reason="the CUDA kernels do not run here")

TILES = ((128, 128), (128, 64), (64, 64))


def test_the_kernels_have_the_tiles_that_the_model_counts_with() -> None:
    module = compiled(torch.empty(0, device=DEVICE))
    assert module.conv2d_relu_tiles == sm80.TILES == TILES
    assert module.conv2d_relu_max_pool2d_first_tile == sm80_pooled.FIRST_TILE


def test_partial_sums_stay_within_memory() -> None:
    for rows, columns, depth, batches in ((1 << 20, 512, 1 << 16, 1), (1 << 24, 64, 4096, 4), (9, 9, 1 << 30, 1)):
        _, splits = sm80.choose(2, sm80.Product(rows, columns, depth, batches), CHIPS["H200"])
        assert splits == 1 or 4 * splits * rows * columns * batches <= 256e6
        assert 1 <= splits <= 64


SHAPES = {
    "wide": ((2, 8, 9, 9), (136, 8, 2, 3), ((1, 1), (1, 1), (1, 1), 1)),
    "ragged": ((1, 3, 31, 17), (70, 3, 5, 4), ((3, 2), (2, 1), (1, 2), 1)),
    "groups": ((3, 18, 6, 7), (22, 9, 3, 3), ((2, 1), (1, 0), (1, 1), 2)),
}


@pytest.mark.parametrize("choice", list(itertools.product(range(len(TILES)), (1, 3))), ids=str)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
def test_every_tile_and_split(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, shape: str, choice: sm80.Choice, generator: torch.Generator
) -> None:
    """Whatever is chosen is right, splits without a single step in them too, and the same in two runs."""
    monkeypatch.setattr(conv2d_relu, "choose", lambda *_: choice)
    input, filters, args = SHAPES[shape]
    tensors = draw(dtype, generator, input, filters)
    state = generator.get_state()
    first = check(*tensors, args, generator)
    generator.set_state(state)
    all_same(check(*tensors, args, generator), first)


@pytest.mark.parametrize("choice", list(itertools.product(range(len(TILES)), (1, 2))), ids=str)
def test_tf32_rounds_its_operands(
    monkeypatch: pytest.MonkeyPatch, choice: sm80.Choice, generator: torch.Generator
) -> None:
    """TF32 of any numbers is fp32 of these numbers rounded to ten bits, but for the order of additions."""
    monkeypatch.setattr(conv2d_relu, "choose", lambda *_: choice)
    input, filters, args = SHAPES["wide"]
    x, w, b = draw(torch.float32, generator, input, filters)
    monkeypatch.setattr(conv2d_relu, "is_tf32", lambda _: True)
    output = conv2d_relu.forward(x, w, b, *args)
    grad = torch.randn(output.shape, generator=generator).to(DEVICE)
    grads = conv2d_relu.backward(grad, x, w, output, *args, (True, True, True))
    rounded = [to_tf32(tensor).double() for tensor in (x, w)]
    wanted = reference.forward(*rounded, b.double(), *args)
    torch.testing.assert_close(output.double(), wanted, rtol=0, atol=4e-6)
    exact = reference.forward(x.double(), w.double(), b.double(), *args)
    assert float((output - exact).abs().max()) > 1e-4  # it was rounded
    wanted_grads = reference.backward(to_tf32(grad).double(), *rounded, output.double(), *args, (True, True, False))
    for ours, wanted_grad in zip(grads[:2], wanted_grads[:2], strict=True):
        torch.testing.assert_close(
            ours.double(), wanted_grad, rtol=0, atol=2e-6 * float(wanted_grad.abs().max()) + 2e-6
        )


def to_tf32(tensor: Tensor) -> Tensor:
    """Ten bits of mantissa, ties away from zero."""
    return ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_channels_last_memory_is_used_as_it_is(generator: torch.Generator) -> None:
    images = torch.randn((2, 16, 5, 6), generator=generator).to(DEVICE).contiguous(memory_format=torch.channels_last)
    assert layout.packed(images, 2).memory is images
    buffer = torch.zeros(images.numel() + 1, device=DEVICE)
    shifted = buffer[1:].as_strided(images.shape, images.stride()).copy_(images)  # not aligned to 16 bytes
    memory, channels = layout.packed(shifted, 2)
    assert memory.data_ptr() != shifted.data_ptr() and channels == 8
    assert torch.equal(memory, images.permute(0, 2, 3, 1))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 1), (5, 1), (66, 1), (6, 3), (18, 2), (130, 2)])
def test_packing_pads_each_group_with_zeros(
    dtype: torch.dtype, channels: int, groups: int, generator: torch.Generator
) -> None:
    for format in (torch.contiguous_format, torch.channels_last):
        images = torch.randn((3, channels, 5, 7), generator=generator).to(dtype).to(DEVICE)
        with canaries():
            memory, padded = layout.packed(images.contiguous(memory_format=format), groups)
        group = channels // groups
        assert padded % (16 // dtype.itemsize) == 0 and group <= padded
        wanted = images.permute(0, 2, 3, 1).reshape(3, 5, 7, groups, group)
        wanted = torch.nn.functional.pad(wanted, (0, padded - group))
        assert torch.equal(memory.reshape(wanted.shape) if memory.dim() == 4 else memory, wanted)


def test_infinite_gradients_reach_the_bias(generator: torch.Generator) -> None:
    """A sum with an infinity in it is infinite, not NaN, and a masked NaN is nothing."""
    x, w, b = draw(torch.float32, generator, (2, 3, 9, 9), (4, 3, 3, 3))
    args: Args = ((1, 1), (0, 0), (1, 1), 1)
    output = conv2d_relu.forward(x, w, b, *args)
    grad = torch.ones_like(output)
    kept = output[:, 0] > 0
    grad[:, 0] = torch.where(kept, math.inf, math.nan)
    bias_grad = conv2d_relu.backward(grad, x, w, output, *args, (False, False, True))[2]
    assert bias_grad is not None and bool(kept.any()) and not bool(kept.all())
    assert bias_grad[0] == math.inf
    assert torch.equal(bias_grad[1:], (output[:, 1:] > 0).sum((0, 2, 3)).float())


@pytest.mark.parametrize("chunks", [1, 31, 32, 33, 64, 80])
def test_a_bias_gradient_is_the_sum_of_all_chunks(chunks: int, generator: torch.Generator) -> None:
    sums = torch.randn(chunks, 2 * 8, generator=generator).to(DEVICE)
    found = conv2d_relu.bias_gradient(sums, 2, 8, 10, torch.float32)
    wanted = sums.double().sum(0).view(2, 8)[:, :5].flatten()  # five filters of eight in each of two groups
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_filter_without_channels(generator: torch.Generator) -> None:
    """No channels: the bias alone, as in torch."""
    x, w, b = draw(torch.float32, generator, (2, 0, 4, 4), (3, 0, 2, 2))
    output = conv2d_relu.forward(x, w, b, (1, 1), (0, 0), (1, 1), 1)
    assert torch.equal(output, b.relu().view(1, 3, 1, 1).expand(2, 3, 3, 3))
