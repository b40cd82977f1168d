"""Arguments at their extremes: far taps, far planes, and more programs than an axis of a grid may have.

Every load and store in the interpreter is compared with 64-bit arithmetic, and every grid with a device's limits
(support/shadow.py); so it is enough that the programs which go farthest run, alone.
"""

from __future__ import annotations

import pytest
import torch

from support.optional import need

need("triton")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from alexkern import plan  # noqa: E402
from alexkern.accuracy import assert_same  # noqa: E402
from alexkern.augmentation import Policy  # noqa: E402
from alexkern.backends.torch import max_pool2d as pool_reference  # noqa: E402
from alexkern.kernels import (  # noqa: E402
    augment,
    conv2d_relu,
    conv2d_relu_data_gradient,
    conv2d_relu_weight_gradient,
    max_pool2d,
    space_to_depth,
)
from support.far import LIMIT, interpreted, last_program, sparse, sparse_images, whole  # noqa: E402
from support.guarded import at_the_end, room  # noqa: E402
from support.references import all_same  # noqa: E402

pytestmark = interpreted
MANY = 70000  # more than the second and third axis of a grid can have programs


@triton.jit
def copy_kernel(x, y, count, step, BLOCK: tl.constexpr):
    place = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * step
    tl.store(y + place // step, tl.load(x + place, mask=place < count, other=0), mask=place < count)


def test_what_wraps_is_found_where_it_is_loaded_and_nowhere_else() -> None:
    x, y = torch.arange(16.0), torch.zeros(16)
    copy_kernel[(1,)](x, y, 16, 1, BLOCK=16)
    assert_same(x, y)
    copy_kernel[(1,)](x, y, 16, 2**28, BLOCK=8)  # the other lanes are masked, whether they wrap or not
    with pytest.raises(Exception, match="says which lanes there are"):
        copy_kernel[(1,)](x, y, 16, 2**28, BLOCK=16)
    with pytest.raises(Exception, match="an address wraps in 32 bits"):
        copy_kernel[(1,)](sparse(2**33), y, 2**33, 2**28, BLOCK=16)
    with pytest.raises(AssertionError, match="no device has grids"):
        copy_kernel[(1, MANY)](x, y, 16, 1, BLOCK=16)


def test_padding_in_the_weight_gradient(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """The padding has more pixels than the image, and the second tap lies beyond all of them."""
    config = conv2d_relu_weight_gradient.SplitConfig(16, 16, 256, 1, 2, 1024)
    monkeypatch.setattr(conv2d_relu_weight_gradient, "configure", lambda *_: config)
    x, w = whole((1, 4, 1024, 1024), generator).permute(0, 3, 1, 2), sparse(1, 1024, 2, 1)
    geometry = ((1, 1), (2500, 0), (2502, 1), 1)
    P = 4 + 2 * 2500 - 2502
    dy = whole((1, P, 1024, 1), generator).permute(0, 3, 1, 2)
    places = [(-1, 0), (-1, -1)]  # the first split has all the rows that the second tap sees
    kernel = last_program(monkeypatch, conv2d_relu_weight_gradient, "weight_gradient_kernel", *places)
    last_program(monkeypatch, conv2d_relu_weight_gradient, "reduce_kernel")
    conv2d_relu_weight_gradient.prepare.cache_clear()
    dw, _ = conv2d_relu_weight_gradient.weight_gradient(dy, None, x, w, *geometry, "ieee", (True, False))
    sums = kernel.args[3][0, 0].view(2, 1024)  # of its output row p the second tap sees the image's row p + 2
    wanted = torch.einsum("pq,cpq->c", dy[0, 0, :2].double(), x[0, -16:, 2:4].double())
    assert_same(sums[1, -16:].double(), wanted)
    conv2d_relu_weight_gradient.prepare.cache_clear()


def test_far_taps_in_the_data_gradient(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """One output row, whose second tap is the image's last row."""
    H, W, C, K = 2**16, 64, 16, 1024
    monkeypatch.setattr(conv2d_relu_data_gradient, "configure", lambda *_: conv2d_relu.Config(16, 16, 0, 1024, 1, 2))
    conv2d_relu_data_gradient.prepare.cache_clear()
    last_program(monkeypatch, conv2d_relu_data_gradient, "data_gradient_kernel")
    dy, w = whole((1, 1, W, K), generator).permute(0, 3, 1, 2), whole((K, 2, 1, C), generator).permute(0, 3, 1, 2)
    geometry = ((1, 1), (0, 0), (H - 1, 1), 1)
    dx = conv2d_relu_data_gradient.data_gradient(dy, None, sparse_images(1, C, H, W), w, *geometry, "ieee")
    assert_same(dx[0, :, -1, -16:].float(), w[:, :, 1, 0].float().t() @ dy[0, :, 0, -16:].float() + 0.0)
    conv2d_relu_data_gradient.prepare.cache_clear()


@pytest.mark.parametrize("stride", [(1, 1), (300, 300), (LIMIT - 2**17, 1)], ids=["groups", "residues", "one"])
def test_programs_of_convolutions(
    stride: tuple[int, int], monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    groups, size = (MANY, 2) if stride == (1, 1) else (1, 301)
    x, w = whole((1, groups, size, size), generator), whole((groups, 1, 1, 1), generator)
    geometry = (stride, (0, 0), (1, 1), groups)
    grad = torch.ones_like(torch.nn.functional.conv2d(x.float(), w.float(), None, *geometry)).half()
    for module, name in (
        (conv2d_relu, "conv2d_relu_kernel"),
        (conv2d_relu_data_gradient, "data_gradient_kernel"),
        (conv2d_relu_weight_gradient, "weight_gradient_kernel"),
        (conv2d_relu_weight_gradient, "reduce_kernel"),
    ):
        last_program(monkeypatch, module, name)
    output = conv2d_relu.forward(x, w, None, *geometry)
    wanted = (w[-1, 0] * x[0, -1, :: stride[0], :: stride[1]]).relu() + 0.0
    assert_same(output[0, -1, -1, -1], wanted[-1, -1])
    dx, dw, _ = conv2d_relu.backward(grad, x, w, output, *geometry, (True, True, False))
    assert dx is not None and dw is not None


def test_programs_of_space_to_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    last_program(monkeypatch, space_to_depth, "space_to_depth_kernel")
    w = sparse(1, 65536 * 512 + 8, 1, 2)
    w[0, -1, 0, -1] = 3
    assert space_to_depth.filter_rows(w)[0, 0, -1, -1] == 3


@pytest.mark.parametrize("window", [(3, 2, 0), (1, 1, 0)], ids=["strips", "taps"])
def test_channels_of_max_pooling(
    window: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    kernel_size, stride, padding = ((number, number) for number in window)
    for name in ("max_pool2d_3x3_stride2_kernel", "max_pool2d_forward_kernel", "max_pool2d_backward_kernel"):
        last_program(monkeypatch, max_pool2d, name)
    x = sparse(1, MANY, 64, 64)
    x[0, -1] = whole((64, 64), generator, -9, 9)
    numbers = (kernel_size, stride, padding, (1, 1), False)
    y, offsets = max_pool2d.forward(x, *numbers, True)
    wanted, wanted_offsets = pool_reference.forward(x[:, -1:], *numbers, True)
    assert_same(y[0, -1, -1], wanted[0, -1, -1])
    assert_same(offsets[0, -1, -1], wanted_offsets[0, -1, -1])
    (dx,) = max_pool2d.backward(torch.ones_like(y), offsets, (1, MANY, 64, 64), False, *numbers, (True,))
    assert dx is not None


def test_far_images_of_max_pooling(generator: torch.Generator) -> None:
    """Images of 16 channels, whose strides are counted in units of 16, over 2**31 numbers apart."""
    step = LIMIT + 1024
    near = whole((2, 5, 5, 16), generator, -9, 9).permute(0, 3, 1, 2)
    far = sparse(step + 400).as_strided(near.shape, (step, 1, 80, 16)).copy_(near)
    for window in ((3, 3), (2, 2), (0, 0)), ((2, 2), (1, 1), (1, 1)):
        numbers = (*window, (1, 1), False)
        y, offsets = found = max_pool2d.forward(far, *numbers, True)
        all_same(found, max_pool2d.forward(near, *numbers, True))
        far_grad = sparse(step + 4096).as_strided(y.shape, (step, *y.stride()[1:])).copy_(y)
        far_offsets = sparse(step + 4096, dtype=torch.uint8).as_strided(y.shape, (step, *y.stride()[1:]))
        far_offsets.copy_(offsets)
        gradients = [
            max_pool2d.backward(grad, saved, (2, 16, 5, 5), True, *numbers, (True,))[0]
            for grad, saved in ((far_grad, far_offsets), (y, offsets))
        ]
        assert_same(*gradients)


@pytest.mark.parametrize("crop", ["random_resized", "random"])
def test_nothing_is_read_beyond_the_images_of_augment(
    crop: str, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """Each tensor, given or planned, ends in front of a page that nobody may touch, as in tests/conformance."""
    monkeypatch.setattr(plan, "_allocate", lambda shape, stride, dtype, device: room(shape, stride, dtype))
    images = torch.randint(256, (2, 5, 7, 3), dtype=torch.uint8, generator=generator)
    sizes, seed = torch.tensor([[5, 7]] * 2), torch.tensor([3, 5])
    policy = Policy((20, 27), crop, resize=30, contrast=(0.5, 0.5), rotation=(45.0, 45.0))  # three programs an image
    far, near = (augment.forward(*map(put, (images, sizes, seed)), policy) for put in (at_the_end, torch.clone))
    assert_same(far, near)


def test_pixels_of_max_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("max_pool2d_forward_kernel", "max_pool2d_backward_kernel"):
        last_program(monkeypatch, max_pool2d, name)
    x = sparse(1, 1, 1, LIMIT - 8)
    x[..., -3:] = 2
    numbers = ((1, 3), (1, 1), (0, 1), (1, 1), False)
    y, offsets = max_pool2d.forward(x, *numbers, True)
    assert offsets is not None and y[0, 0, 0, -1] == 2
    (dx,) = max_pool2d.backward(y, offsets, (1, 1, 1, LIMIT - 8), False, *numbers, (True,))
    assert dx is not None and dx[0, 0, 0, -1] >= 0
