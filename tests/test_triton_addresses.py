"""Tensors of over 2**31 elements: the last program of every kernel, alone, in the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from support.optional import need

need("triton")


from alexkern.accuracy import assert_same  # noqa: E402
from alexkern.augmentation import Policy  # noqa: E402
from alexkern.backends.torch import augment as augment_reference  # noqa: E402
from alexkern.backends.torch import bits, philox  # noqa: E402
from alexkern.backends.torch import dropout as dropout_reference  # noqa: E402
from alexkern.backends.torch import max_pool2d as pool_reference  # noqa: E402
from alexkern.cost.model import cdiv  # noqa: E402
from alexkern.geometry import Geometry, pooling  # noqa: E402
from alexkern.kernels import (  # noqa: E402
    augment,
    conv2d_relu,
    conv2d_relu_data_gradient,
    conv2d_relu_max_pool2d,
    conv2d_relu_weight_gradient,
    dropout,
    linear_relu_dropout,
    masked_gradient,
    max_pool2d,
    space_to_depth,
)
from alexkern.kernels.amend import amend  # noqa: E402
from alexkern.kernels.conv2d_relu_weight_gradient import SplitConfig  # noqa: E402
from alexkern.plan import nchw  # noqa: E402
from support.far import LIMIT, Alone, interpreted, last_program, sparse, sparse_images, whole  # noqa: E402
from support.references import all_same  # noqa: E402

pytestmark = interpreted

POINT = ((1, 1), (0, 0), (1, 1), 1)  # stride, padding, dilation and groups of a 1x1 convolution
POOL = ((3, 3), (2, 2), (0, 0))
POOLING = ("max_pool2d_3x3_stride2_kernel", "max_pool2d_forward_kernel")
POOLED = conv2d_relu_max_pool2d.Config(True, 2, 8, 16, 16, 4, 3, 1)


Only = Callable[..., Alone]


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Only]:
    """Within the test a module's kernel runs these programs only, by default the last, and functions return this."""

    def only(module: ModuleType, name: str, *programs: tuple[int, ...], **returning: object) -> Alone:
        for function, value in returning.items():
            monkeypatch.setattr(module, function, lambda *_, value=value: value)
        return last_program(monkeypatch, module, name, *programs)

    yield only
    # Launches are cached by problem: those that a test configured are forgotten.
    for module in (conv2d_relu, conv2d_relu_data_gradient, conv2d_relu_weight_gradient, linear_relu_dropout):
        module.prepare.cache_clear()


def tile(block_k: int, tail: int = 0) -> conv2d_relu.Config:
    return conv2d_relu.Config(16, 16, tail, block_k, 1, 2)


def apart(near: Tensor, axis: int) -> Tensor:
    """The same numbers, along an axis 2**30 apart: the third lies beyond 2**31. What is between is never touched."""
    strides = [LIMIT // 2 + 64 if one == axis else stride for one, stride in enumerate(near.stride())]
    end = sum((size - 1) * stride for size, stride in zip(near.shape, strides, strict=True)) + 1
    return sparse(end, dtype=near.dtype).as_strided(near.shape, strides).copy_(near)


every_axis = pytest.mark.parametrize("axis", range(4))  # of three each


# (N, C, H, K) of 1x1 convolutions over H x H images: their outputs have over 2**31 elements.
IMAGES = {"many images": (530, 16, 64, 1024), "one image": (1, 16, 1449, 1024)}


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("sizes", IMAGES.values(), ids=IMAGES)
def test_output_of_convolution(sizes: tuple[int, ...], layout: str, only: Only, generator: torch.Generator) -> None:
    N, C, H, K = sizes
    assert N * H * H * K > LIMIT
    only(conv2d_relu, "conv2d_relu_kernel", configure=tile(16))
    x = sparse_images(N, C, H, H)
    x[-1] = whole(x[-1].shape, generator)
    w = whole((K, C, 1, 1), generator)
    y = nchw((N, K, H, H), x.dtype, layout == "nhwc")
    output = sparse(N * K * H * H).as_strided(y.shape, y.stride)
    conv2d_relu.launch(x, w, None, output, *POINT)
    pixels = (N * H * H - 1) % 16 + 1  # of the last program
    wanted = (w[-16:, :, 0, 0] @ x[-1].flatten(1)[:, -pixels:]).relu()
    assert_same(output[-1, -16:].flatten(1)[:, -pixels:], wanted)


@pytest.mark.parametrize("tail", [0, 16])
def test_filters_of_convolution(tail: int, only: Only, generator: torch.Generator) -> None:
    K, C = 2**15 + 16 + tail, 2**16
    only(conv2d_relu, "conv2d_relu_kernel", configure=tile(4096, tail))
    x, w = whole((1, 4, 4, C), generator).permute(0, 3, 1, 2), sparse_images(K, C, 1, 1)
    last = slice(-16 - tail, None)
    w[last] = whole((16 + tail, C, 1, 1), generator)
    output = conv2d_relu.forward(x, w, None, *POINT)
    assert_same(output[0, last].flatten(1), (w[last, :, 0, 0].float() @ x[0].flatten(1).float()).relu().half())


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "plain"])
@pytest.mark.parametrize("sizes", IMAGES.values(), ids=IMAGES)
def test_gradient_of_output_in_the_data_gradient(
    sizes: tuple[int, ...], masked: bool, only: Only, generator: torch.Generator
) -> None:
    N, C, H, K = sizes
    only(conv2d_relu_data_gradient, "data_gradient_kernel", configure=tile(1024))
    dy, y = sparse_images(N, K, H, H), sparse_images(N, K, H, H)
    pixels = (N * H * H - 1) % 16 + 1
    dy[-1, :, -1, -pixels:] = whole((K, pixels), generator)
    y[-1, :, -1, -pixels:] = whole((K, pixels), generator)
    w = whole((K, C, 1, 1), generator)
    dx = conv2d_relu_data_gradient.data_gradient(
        dy, y if masked else None, sparse_images(N, C, H, H), w, *POINT, "ieee"
    )
    gradient = dy[-1, :, -1, -pixels:] * ((y[-1, :, -1, -pixels:] > 0) if masked else 1)
    assert_same(dx[-1, :, -1, -pixels:], (w[:, :, 0, 0].t().float() @ gradient.float()).half() + 0.0)


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "hncw", "wnch"])
@pytest.mark.parametrize("sizes", IMAGES.values(), ids=IMAGES)
def test_data_gradient(sizes: tuple[int, ...], layout: str, only: Only, generator: torch.Generator) -> None:
    N, K, H, C = sizes  # the same sizes, from the other side
    only(conv2d_relu_data_gradient, "data_gradient_kernel", configure=tile(16))
    x = sparse_images(N, C, H, H) if layout == "nhwc" else sparse(N, C, H, H)
    if layout == "hncw":
        x = sparse(H, N, C, H).permute(1, 2, 0, 3)
    if layout == "wnch":
        x = sparse(H, N, C, H).permute(1, 2, 3, 0)
    pixels = (N * H * H - 1) % 16 + 1
    dy = sparse_images(N, K, H, H)
    dy[-1, :, -1, -pixels:] = whole((K, pixels), generator)
    w = whole((K, C, 1, 1), generator)
    dx = conv2d_relu_data_gradient.data_gradient(dy, None, x, w, *POINT, "ieee")
    assert dx.stride() == x.stride()
    assert_same(dx[-1, -16:, -1, -pixels:], w[:, -16:, 0, 0].t() @ dy[-1, :, -1, -pixels:] + 0.0)


@pytest.mark.parametrize("groups", [1, 3])
def test_filters_of_the_data_gradient(groups: int, only: Only, generator: torch.Generator) -> None:
    K, C = 3 * 2**14 + 48, 2**16
    only(conv2d_relu_data_gradient, "data_gradient_kernel", configure=tile(4096))
    dy, w = whole((1, 4, 4, K), generator).permute(0, 3, 1, 2), sparse_images(K, C, 1, 1)
    w[-16:, -16:] = whole((16, 16, 1, 1), generator)
    geometry = (*POINT[:3], groups)
    dx = conv2d_relu_data_gradient.data_gradient(dy, None, sparse_images(1, groups * C, 4, 4), w, *geometry, "ieee")
    assert_same(dx[0, -16:].flatten(1), w[-16:, -16:, 0, 0].t() @ dy[0, -16:].flatten(1) + 0.0)


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "plain"])
@pytest.mark.parametrize(("C", "K"), [(16, 1024), (1024, 16)], ids=["gradient", "input"])
def test_pixels_of_the_weight_gradient(C: int, K: int, masked: bool, only: Only, generator: torch.Generator) -> None:
    N, H, splits = 513, 64, 64
    places = [(-1 - K // 16, -1), (-1, -1)]  # of the weight, of the bias
    config = SplitConfig(16, 16, 1024, 1, 2, splits)
    kernel = only(conv2d_relu_weight_gradient, "weight_gradient_kernel", *places, configure=config)
    only(conv2d_relu_weight_gradient, "reduce_kernel")
    x, dy, y = sparse_images(N, C, H, H), sparse_images(N, K, H, H), sparse_images(N, K, H, H)
    last = slice(-16, None)  # filters and channels
    for tensor in (x, dy, y):
        tensor[-1, last] = whole(tensor[-1, last].shape, generator)
    geometry = (*POINT, "ieee", (True, True))
    conv2d_relu_weight_gradient.weight_gradient(dy, y if masked else None, x, sparse(K, C, 1, 1), *geometry)
    sums, bias_sums = kernel.args[3], kernel.args[4]
    assert sums.shape[0] == bias_sums.shape[0] == cdiv(N * H * H, cdiv(cdiv(N * H * H, splits), 1024) * 1024)
    gradient = (dy[-1, last] * ((y[-1, last] > 0) if masked else 1)).float().flatten(1)
    assert_same(bias_sums[-1, -16:], gradient.sum(1) + 0.0)
    assert_same(sums[-1, -16:, -16:], gradient @ x[-1, last].float().flatten(1).t() + 0.0)


def test_weight_gradient(only: Only, generator: torch.Generator) -> None:
    K, C = 2**15 + 16, 2**16
    only(conv2d_relu_weight_gradient, "weight_gradient_kernel", configure=SplitConfig(16, 16, 16, 1, 2, splits=1))
    x, dy = (whole((1, 4, 4, size), generator).permute(0, 3, 1, 2) for size in (C, K))
    geometry = (*POINT, "ieee", (True, False))
    dw, _ = conv2d_relu_weight_gradient.weight_gradient(dy, None, x, sparse_images(K, C, 1, 1), *geometry)
    assert_same(dw[-16:, -16:, 0, 0], dy[0, -16:].flatten(1) @ x[0, -16:].flatten(1).t() + 0.0)


@pytest.mark.parametrize(("C", "K"), [(2**12, 16), (16, 2**16)], ids=["weight", "bias"])
def test_sums_of_a_split(
    C: int, K: int, only: Only, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """A pixel each. Bytes, as below."""
    module, splits, of_bias = conv2d_relu_weight_gradient, 2**15 + 1, C < K
    monkeypatch.setattr(module, "workspace", lambda shape, device: sparse(*shape, dtype=torch.uint8))
    kernel = only(module, "weight_gradient_kernel", configure=SplitConfig(16, 16, 1, 1, 2, splits))
    monkeypatch.setattr(module, "reduce_kernel", Alone(module.reduce_kernel, [], monkeypatch))
    x, dy = sparse_images(1, C, splits, 1), sparse_images(1, K, splits, 1)
    for tensor in (x, dy):
        tensor[0, -16:, -1] = whole((16, 1), generator, 0, 9)
    module.weight_gradient(dy, None, x, sparse(K, C, 1, 1), *POINT, "ieee", (not of_bias, of_bias))
    sums = kernel.args[4 if of_bias else 3]
    assert sums.numel() > LIMIT
    gradient = dy[0, -16:, -1, 0]
    wanted = gradient if of_bias else gradient[:, None] * x[0, -16:, -1, 0]
    assert_same(sums[(-1, *(slice(-16, None),) * wanted.dim())], wanted.byte())


@every_axis
def test_strides_of_the_weight_gradient(axis: int, generator: torch.Generator) -> None:
    sums = whole((3, 27), generator).float()
    dw = apart(sparse(3, 3, 3, 3), axis)
    conv2d_relu_weight_gradient.reduce_kernel[(1,)](
        sums, sums, dw, sums, 1, 1, 27, *dw.stride(), K=3, C=3, R=3, S=3, FACTOR=1, BLOCK=128, num_warps=4
    )
    assert_same(dw, sums.view(3, 3, 3, 3).permute(0, 3, 1, 2).half())


@pytest.mark.parametrize(("splits", "K"), [(33, 1024), (2, 2**15 + 16)], ids=["splits", "filters"])
def test_sums_of_splits(splits: int, K: int, only: Only, generator: torch.Generator) -> None:
    """The kernel takes its sums as bytes as well, which need a quarter of the address space."""
    C, BLOCK = 2**16, 512
    sums, dw = sparse(splits, K, C, dtype=torch.uint8), sparse(K, C, 1, 1)
    assert sums.numel() > LIMIT
    sums[:, -1, -BLOCK:] = whole((splits, BLOCK), generator, 0, 5).byte()
    reduce = only(conv2d_relu_weight_gradient, "reduce_kernel")
    tiles = K * C // BLOCK
    reduce[(tiles,)](
        sums, sums, dw, sums, splits, tiles, C, *dw.stride(), K=K, C=C, R=1, S=1, FACTOR=1, BLOCK=BLOCK, num_warps=4
    )  # fmt: skip
    assert_same(dw[-1, -BLOCK:, 0, 0], sums[:, -1, -BLOCK:].sum(0).half())


@pytest.mark.parametrize("far", ["input", "output"])
def test_space_to_depth(far: str, only: Only, generator: torch.Generator) -> None:
    shape, step = (3, 3, 228, 228), LIMIT // 2 + 64
    image = whole(shape[1:], generator)
    N, x = 13800, image.expand(13800, *shape[1:])
    if far == "input":
        N, x = 3, sparse(2 * step + image.numel()).as_strided(shape, (step, 228 * 228, 228, 1))
        x[-1] = image
    wanted, _ = space_to_depth.space_to_depth(image[None], 4, (2, 2), (57, 57))
    assert max(N * wanted.numel(), 2 * step) > LIMIT
    only(space_to_depth, "space_to_depth_kernel")
    y, _ = space_to_depth.space_to_depth(x, 4, (2, 2), (57, 57))
    written = 57 * 48 % space_to_depth.BLOCK
    assert_same(y[-1, -1].flatten()[-written:], wanted[-1, -1].flatten()[-written:])


def pooled(padding: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda x: max_pool2d.forward(x, (3, 3), (2, 2), (padding, padding), (1, 1), False, True)


POLICY = Policy((3, 3), crop="center", resize=3, contrast=(0.5, 0.5))
READERS: dict[str, tuple[torch.dtype, Callable[[Tensor], tuple[Tensor, ...]]]] = {
    "space_to_depth": (torch.float16, lambda x: space_to_depth.space_to_depth(x, 2, (1, 1), (2, 2))),
    "augment": (torch.uint8, lambda x: (augment.forward(x, torch.full((3, 2), 3), torch.tensor([3, 5]), POLICY),)),
    "max_pool2d in strips": (torch.float16, pooled(0)),
    "max_pool2d by taps": (torch.float16, pooled(1)),
}


@every_axis
@pytest.mark.parametrize("kernel", READERS)
def test_images_may_lie_far_apart(kernel: str, axis: int, generator: torch.Generator) -> None:
    dtype, call = READERS[kernel]
    near = whole((3, 3, 3, 3), generator, 0, 256).to(dtype)
    all_same(call(apart(near, axis)), call(near))


@every_axis
@pytest.mark.parametrize("far", ["input", "weight", "output"])
def test_amended_outputs(far: str, axis: int, generator: torch.Generator) -> None:
    """All of them are NaN."""
    of = Geometry(3, 3, 3, 3, 3, 3, 3, (2, 2), (2, 2), (1, 1), 1)
    tensors = {"input": whole((3, 3, 3, 3), generator), "weight": whole((3, 3, 3, 3), generator)}
    wanted = F.conv2d(*(tensor.double() for tensor in tensors.values()), stride=2, padding=2).relu()
    tensors["output"] = torch.full((3, 3, 3, 3), float("nan"), dtype=torch.float16)
    tensors[far] = apart(tensors[far], axis)
    marks = torch.ones((3, 4, 1), dtype=torch.uint8)
    amend(tensors["input"], tensors["weight"], None, tensors["output"], None, marks, of, 2, pooled=False)
    assert_same(tensors["output"].double(), wanted + 0.0)


def test_sizes_of_augment(generator: torch.Generator) -> None:
    """Bytes, which need less of the address space."""
    sizes = torch.randint(1, 100, (3, 2), generator=generator, dtype=torch.uint8)
    seed, policy = torch.tensor([3, 5]), Policy((3, 3))
    wanted = augment_reference.parameters(sizes.long(), seed, policy)
    assert_same(augment.parameters(apart(sizes, 0), seed, policy), wanted)


def test_masked_gradient(only: Only, generator: torch.Generator) -> None:
    only(masked_gradient, "masked_gradient_kernel")
    dy, y = sparse(LIMIT + 1000), sparse(LIMIT + 1000)
    dy[LIMIT:], y[LIMIT:] = whole((1000,), generator), whole((1000,), generator)
    assert_same(masked_gradient.masked_gradient(dy, y)[LIMIT:], torch.where(y[LIMIT:] > 0, dy[LIMIT:], 0))
    only(masked_gradient, "packed_mask_kernel")
    mask = masked_gradient.packed_mask(y, torch.tensor([3, 5]), philox.threshold(0.5))
    kept = philox.keep(torch.tensor([3, 5 + LIMIT // 4]), 0.5, (1000,), (1,)) & (y[LIMIT:] > 0)
    assert_same(mask[LIMIT // 8 :], bits.pack(kept))
    assert_same(masked_gradient.masked_gradient(dy, mask, 0.5)[LIMIT:], torch.where(kept, 2 * dy[LIMIT:], 0))


def test_dropout(only: Only, generator: torch.Generator) -> None:
    only(dropout, "dropout_kernel")
    x = sparse(LIMIT + 1000)
    x[LIMIT:] = torch.randn(1000, generator=generator)
    y = dropout.forward(x, torch.tensor([3, 5]), 0.5)
    assert_same(y[LIMIT:], dropout_reference.forward(x[LIMIT:], torch.tensor([3, 5 + LIMIT // 4]), 0.5))


@pytest.mark.parametrize(
    ("M", "K", "N"),
    [(2**15 + 16, 2**16, 16), (2**16 + 16, 16, 2**15), (16, 2**16, 2**15 + 16)],
    ids=["input", "output", "weight"],
)
def test_linear(M: int, K: int, N: int, only: Only, generator: torch.Generator) -> None:
    assert max(M * K, M * N, N * K) > LIMIT
    config = linear_relu_dropout.Config(16, 16, min(K, 4096), 1, 2)
    only(linear_relu_dropout, "linear_relu_dropout_kernel", configure=config)
    x, w = sparse(M, K), sparse(N, K)
    x[-16:], w[-16:] = whole((16, K), generator), whole((16, K), generator)
    y, _ = linear_relu_dropout.forward(x, w, None, torch.tensor([7, 11]), 0.5, False)
    tail = torch.tensor([7, 11 + (M - 16) * N // 4])
    kept = philox.keep(tail, 0.5, (16, N), (N, 1))[:, -16:]
    assert_same(y[-16:, -16:], torch.where(kept, 2 * (x[-16:].float() @ w[-16:].float().t()).relu(), 0).half())


@pytest.mark.parametrize("padding", [0, 1], ids=["strips", "taps"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_output_of_max_pooling(layout: str, padding: int, only: Only, generator: torch.Generator) -> None:
    window = ((3, 3), (2, 2), (padding, padding), (1, 1), False, True)
    memory_format = torch.channels_last if layout == "nhwc" else torch.contiguous_format
    image = whole((1, 128, 131, 131), generator, -9, 9).contiguous(memory_format=memory_format)
    # One image many times over is no NHWC batch by torch's rule.
    for name in POOLING:
        only(max_pool2d, name, is_channels_last=layout == "nhwc")
    output, offsets = max_pool2d.forward(image.expand(4200, -1, -1, -1), *window)
    assert output.numel() > LIMIT
    corner = (-1, slice(-16 if layout == "nhwc" else -1, None), -1, -1)  # channels of the last pixel
    wanted, wanted_offsets = pool_reference.forward(image, *window)
    assert_same(output[corner], wanted[corner])
    assert_same(offsets[corner], wanted_offsets[corner])


@pytest.mark.parametrize(("padding", "rows"), [(0, 1), (0, 3), (1, 1)], ids=["strips", "long strips", "taps"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_output_of_max_pooling_of_an_image(
    layout: str, padding: int, rows: int, only: Only, generator: torch.Generator
) -> None:
    """All pixels of a channel are the same one."""
    C, P, Q, block = (1024, 3, 2**20 + 7, 16) if layout == "nhwc" else (3, 2**15 + 3, 2**15, 1)
    returning = {"is_channels_last": layout == "nhwc", "_configuration": max_pool2d.Config(16, block, rows, 4)}
    for name in POOLING:
        only(max_pool2d, name, **returning)
    values = whole((1, C, 1, 1), generator, -9, 9)
    x = values.expand(1, C, 2 * (P - padding) + 1, 2 * (Q - padding) + 1)
    output, _ = max_pool2d.forward(x, (3, 3), (2, 2), (padding, padding), (1, 1), False, False)
    assert output.shape == (1, C, P, Q)
    assert_same(output[0, -block:, -1, -1], values[0, -block:, 0, 0])


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(("N", "H"), [(4000, 65), (1, 4097)], ids=["many images", "one image"])
def test_gradient_of_max_pooling(N: int, H: int, layout: str, only: Only, generator: torch.Generator) -> None:
    C, P = 144, H // 2
    grad = whole((1, C, 1, 1), generator, 1, 9)
    offsets = torch.full_like(grad, 8, dtype=torch.uint8)  # every winner is the last of its window
    only(max_pool2d, "max_pool2d_backward_kernel")
    windows = pooling((N, C, H, H), *POOL)
    dx = max_pool2d.gather(*(t.expand(N, -1, P, P) for t in (grad, offsets)), windows, layout == "nhwc")
    assert dx.numel() > LIMIT
    assert_same(dx[-1, -1, -1, -1], grad[0, -1, -1, -1])


@every_axis
@pytest.mark.parametrize("far", ["gradient", "offsets"])
def test_sources_of_the_gradient_of_max_pooling(far: str, axis: int, generator: torch.Generator) -> None:
    shape, channels_last = (3, 3 if axis == 1 else 8, 3, 3), axis != 1  # else the gradient is copied before
    grad = whole(shape, generator, 1, 9)
    offsets = torch.randint(9, shape, dtype=torch.uint8, generator=generator)
    if channels_last:
        grad, offsets = (one.contiguous(memory_format=torch.channels_last) for one in (grad, offsets))
    windows = pooling((3, shape[1], 7, 7), *POOL)
    wanted = max_pool2d.gather(grad, offsets, windows, channels_last)
    sources = (apart(grad, axis), offsets) if far == "gradient" else (grad, apart(offsets, axis))
    assert_same(max_pool2d.gather(*sources, windows, channels_last), wanted)


@pytest.mark.parametrize(("N", "C", "K"), [(414300, 64, 16), (131100, 16, 1024)], ids=["input", "output"])
def test_convolution_and_pooling(
    N: int, C: int, K: int, only: Only, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(conv2d_relu_max_pool2d, "_configuration", lambda *_: POOLED)
    x = sparse_images(N, C, 9, 9)
    x[-1] = whole(x[-1].shape, generator)
    w, arguments = whole((K, C, 1, 1), generator), (None, *POINT, *POOL, True)
    wanted, wanted_offsets = conv2d_relu_max_pool2d.forward(x[-1:], w[-16:], *arguments)
    only(conv2d_relu_max_pool2d, "conv2d_relu_max_pool2d_kernel")
    y, offsets = conv2d_relu_max_pool2d.forward(x, w, *arguments)
    assert max(x.numel(), y.numel()) > LIMIT
    assert_same(y[-1, -16:, 2:], wanted[0, :, 2:])
    assert_same(offsets[-1, -16:, 2:], wanted_offsets[0, :, 2:])


@pytest.mark.parametrize("axis", [2, 3])
def test_pooling_of_a_side_that_long(
    axis: int, only: Only, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    """An output row, or column, alone has over 2**31 elements."""
    monkeypatch.setattr(conv2d_relu_max_pool2d, "_configuration", lambda *_: POOLED)
    K, length = 1024, 2**21 + 7
    long, short = [1, 16, 3, 3], [1, 16, 3, 3]
    long[axis], short[axis] = 2 * length + 1, 33
    x, w = sparse_images(*long), whole((K, 16, 1, 1), generator)
    end = x.narrow(axis, long[axis] - 33, 33).copy_(whole(tuple(short), generator))
    arguments = (None, *POINT, *POOL, True)
    wanted = conv2d_relu_max_pool2d.forward(end, w[-16:], *arguments)
    only(conv2d_relu_max_pool2d, "conv2d_relu_max_pool2d_kernel")
    found = conv2d_relu_max_pool2d.forward(x, w, *arguments)
    windows = (length - 1) % (2 if axis == 2 else 7) + 1  # of the last program
    assert K * (length - windows) > LIMIT
    ends = [one[0, -16:].narrow(axis - 1, length - windows, windows) for one in found]
    all_same(ends, [one[0].narrow(axis - 1, 16 - windows, windows) for one in wanted])
