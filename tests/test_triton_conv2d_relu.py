"""What is particular to the Triton convolution: its configurations, layouts, split sums and 64-bit addresses."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.accuracy import assert_same
from support.backends import DEVICE, why_missing
from support.canaries import canaries
from support.references import all_same, hold

if why_missing("triton", "conv2d_relu") is not None:
    pytest.skip(f"triton: {why_missing('triton', 'conv2d_relu')}", allow_module_level=True)

import triton.language as tl

from alexkern import kernels
from alexkern.backends.torch import conv2d_relu as reference
from alexkern.cost import triton as model
from alexkern.geometry import Geometry
from alexkern.kernels import conv2d_relu, masked_gradient, precision
from alexkern.kernels import conv2d_relu_data_gradient as data_gradient
from alexkern.kernels import conv2d_relu_weight_gradient as weight_gradient
from alexkern.kernels.config import TARGETS
from alexkern.kernels.conv2d_relu_weight_gradient import SplitConfig
from alexkern.kernels.convolution import Config, Problem, index_type
from alexkern.kernels.space_to_depth import space_to_depth

ONE = ((1, 1), (1, 1), (1, 1), 1)  # stride, padding, dilation, groups
# (C, H, K, R, stride, padding, groups) of the layers of torchvision's network and of the paper's.
LAYERS = {
    "conv1": (3, 224, 64, 11, 4, 2, 1),
    "conv2": (64, 27, 192, 5, 1, 2, 1),
    "conv3": (192, 13, 384, 3, 1, 1, 1),
    "conv4": (384, 13, 256, 3, 1, 1, 1),
    "conv5": (256, 13, 256, 3, 1, 1, 1),
    "conv1 of 2012": (3, 224, 96, 11, 4, 2, 1),
    "conv2 of 2012": (96, 27, 256, 5, 1, 2, 2),
    "conv4 of 2012": (384, 13, 384, 3, 1, 1, 2),
}
ARITHMETIC = ((torch.bfloat16, "ieee"), (torch.float32, "tf32"), (torch.float32, "ieee"))


def layer(name: str, batch: int = 128, dtype: torch.dtype = torch.bfloat16, products: str = "ieee") -> Problem:
    C, H, K, R, stride, padding, groups = LAYERS[name]
    pairs = (stride, stride), (padding, padding), (1, 1)
    return Problem(Geometry(batch, C, H, H, K, R, R, *pairs, groups), dtype, products)


@pytest.fixture(autouse=True)
def fresh_launches() -> Iterator[None]:
    """Launches are cached by problem: forget those that a test configured."""
    yield
    for module in (conv2d_relu, data_gradient, weight_gradient):
        module.prepare.cache_clear()


def draw(*shape: int, dtype: torch.dtype = torch.float32, generator: torch.Generator, scale: float = 1.0) -> Tensor:
    return (torch.randn(shape, generator=generator) * scale).to(dtype).to(DEVICE)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("dtype", "products"), ARITHMETIC, ids=str)
def test_tiles_fit_every_device(target: int, dtype: torch.dtype, products: str) -> None:
    device = TARGETS[target]
    for tile in model.tiles(dtype, products, device):
        # A gradient that is masked while loading has its mask in shared memory too.
        stage = (2 * tile.BLOCK_M + tile.N) * tile.BLOCK_K * dtype.itemsize
        assert stage * tile.num_stages <= device.shared_memory, tile
        for block in (tile.BLOCK_M, tile.BLOCK_N, tile.BLOCK_K):
            assert block & (block - 1) == 0 and block >= 16, tile
        assert 0 <= tile.TAIL_N < tile.BLOCK_N


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(torch.channels_last, id="nhwc"),
        pytest.param(torch.contiguous_format, id="nchw", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize(
    "config",
    [
        Config(16, 16, 0, 16, 1, 2),  # a step lies within one tap
        Config(16, 32, 16, 16, 1, 2),  # with a tail
        Config(32, 16, 0, 32, 1, 2),  # 48 channels are no multiple of a step: every place has its own tap
        Config(16, 32, 16, 64, 1, 2),
    ],
    ids=str,
)
def test_every_form_of_the_kernels(
    config: Config, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    split = SplitConfig(config.BLOCK_M, config.BLOCK_N, config.BLOCK_K, 1, 2, splits=3)
    monkeypatch.setattr(conv2d_relu, "configure", lambda problem, device: config)
    monkeypatch.setattr(data_gradient, "configure", lambda problem, device: config)
    monkeypatch.setattr(weight_gradient, "configure", lambda problem, device: split)
    input = draw(2, 48, 4, 3, generator=generator).contiguous(memory_format=layout)
    weight = draw(48, 48, 3, 3, generator=generator, scale=0.05).contiguous(memory_format=layout)
    bias = draw(48, generator=generator)
    with canaries() as buffers:
        output = conv2d_relu.forward(input, weight, bias, *ONE)
        grad = draw(*output.shape, generator=generator)
        grads = conv2d_relu.backward(grad, input, weight, output, *ONE, (True, True, True))
    assert buffers
    assert output.is_contiguous(memory_format=layout)
    hold((output,), lambda *given: reference.forward(*given, *ONE), input, weight, bias)
    hold(grads, lambda *given: reference.backward(*given, *ONE, (True, True, True)), grad, input, weight, output)
    assert grads[1] is not None and grads[1].stride() == weight.stride()


def test_space_to_depth_is_exact(generator: torch.Generator) -> None:
    factor, C = 4, 3
    input = draw(2, C, 13, 10, dtype=torch.float16, generator=generator)
    size = (5, 4)
    padded = F.pad(input, (2, factor * size[1] - 12, 1, factor * size[0] - 14))
    wanted = F.pixel_unshuffle(padded, factor)  # channels are (c, a, b) there
    wanted = wanted.view(2, C, factor, factor, *size).permute(0, 4, 5, 2, 3, 1).reshape(2, *size, -1)
    for source in (input, input.contiguous(memory_format=torch.channels_last), input.flip(3).flip(3)[:, :, ::1]):
        with canaries():
            found, marks = space_to_depth(source, factor, (1, 2), size)
        assert marks is None
        assert_same(found, wanted.contiguous())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_space_to_depth_marks_what_is_not_finite(value: float, generator: torch.Generator) -> None:
    input = draw(2, 3, 9, 120, dtype=torch.float16, generator=generator)
    input[0, 0, 0, 0], input[1, 2, 5, 100] = 65504.0, value
    with canaries():
        _, marks = space_to_depth(input, 4, (0, 0), (3, 30), marked=True)
    assert marks is not None and marks.shape == (2, 3, 2)  # 30 * 48 values a line, 1024 a part
    assert marks.nonzero().tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("filters", [(7, 5), (5, 7), (8, 5), (5, 8)], ids=str)  # in blocks of 4x4
def test_what_an_infinity_spoils_is_amended(filters: tuple[int, int], generator: torch.Generator) -> None:
    shapes = (1, 3, 16, 16), (4, 3, *filters)
    input, weight = (torch.randint(-2, 3, shape, generator=generator).float() for shape in shapes)
    input[0, 1, 7, 7] = float("inf")  # beside the first filter in each direction, where there are zeros in depth
    wanted = F.conv2d(input.double(), weight.double(), None, 4).relu().float()
    input, weight, geometry = input.to(DEVICE), weight.to(DEVICE), ((4, 4), (0, 0), (1, 1), 1)
    assert conv2d_relu.prepare(conv2d_relu.key_of(input, weight, *geometry, "ieee")).config.factor == 4
    assert_same(conv2d_relu.forward(input, weight, None, *geometry).cpu(), wanted)


def test_first_layer_in_depth_is_the_same_convolution() -> None:
    first = layer("conv1").geometry
    assert conv2d_relu.depth_factor(first) == 4
    seen = conv2d_relu.in_depth(first, 4)
    assert (seen.P, seen.Q) == (first.P, first.Q) == (55, 55)
    assert (seen.C, seen.H, seen.W, seen.R, seen.S) == (48, 57, 57, 3, 3)
    shapes: tuple[dict[str, int], ...] = ({"R": 4, "S": 3}, {"R": 3, "S": 4}, {"C": 64}, {"groups": 3, "K": 66})
    for change in (*shapes, {"dilation": (2, 2)}, {"stride": (4, 2)}, {"stride": (1, 1)}):
        assert conv2d_relu.depth_factor(first._replace(**change)) == 1
    for change in ({"R": 4, "S": 4}, {"C": 1}, {"C": 4}):
        assert conv2d_relu.depth_factor(first._replace(**change)) == 4
    assert conv2d_relu.depth_factor(first._replace(stride=(2, 2), C=1)) == 2
    assert conv2d_relu.depth_factor(first._replace(C=5)) == conv2d_relu.depth_factor(first._replace(C=0)) == 1


@pytest.mark.parametrize(
    ("splits", "channels_last", "needs", "count"),
    [
        (1, True, (True, True), 2),  # the gradients alone
        (2, True, (True, True), 4),  # and the sums of each
        (1, False, (True, True), 4),
        (2, True, (False, True), 2),
    ],
)
def test_partial_sums_only_where_there_is_something_to_add_or_move(
    splits: int,
    channels_last: bool,
    needs: tuple[bool, bool],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
    generator: torch.Generator,
) -> None:
    split = SplitConfig(16, 16, 16, 1, 2, splits)
    monkeypatch.setattr(weight_gradient, "configure", lambda problem, device: split)
    input, weight, grad = (draw(*shape, generator=generator) for shape in ((1, 4, 6, 6), (3, 4, 3, 3), (1, 3, 6, 6)))
    grad = grad.contiguous(memory_format=torch.channels_last)
    if channels_last:
        weight = weight.contiguous(memory_format=torch.channels_last)
    with canaries() as buffers:
        weight_gradient.weight_gradient(grad, None, input, weight, *ONE, "ieee", needs)
    assert len(buffers) == count


def test_splits_are_added_in_ascending_order(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    """Each image is a split here, so that a split's sum is a gradient of that image alone."""
    split = SplitConfig(16, 16, 16, 1, 2, splits=5)
    monkeypatch.setattr(weight_gradient, "configure", lambda problem, device: split)
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    input = draw(5, 4, 6, 6, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = draw(3, 4, 3, 3, generator=generator)
    grad = draw(5, 3, 4, 4, generator=generator).contiguous(memory_format=torch.channels_last)

    def gradients(part: slice) -> tuple[Tensor, Tensor]:
        given = (grad[part], None, input[part], weight)
        return weight_gradient.weight_gradient(*given, *geometry, "ieee", (True, True))

    sums = torch.zeros_like(weight), torch.zeros(3, device=DEVICE)
    for n in range(5):
        sums = tuple(total + part for total, part in zip(sums, gradients(slice(n, n + 1)), strict=True))
    whole = gradients(slice(None))
    all_same(gradients(slice(None)), whole)
    all_same(whole, sums)


def test_masking_first_and_while_loading_agree(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    input = draw(2, 5, 6, 6, generator=generator)
    weight = draw(7, 5, 3, 3, generator=generator)
    output = conv2d_relu.forward(input, weight, None, *ONE)
    output[0, 0, 0, 0] = float("nan")
    grad = draw(*output.shape, generator=generator)
    grad[output <= 0] = float("nan")  # a masked gradient is not even looked at
    results = []
    for first in (True, False):
        monkeypatch.setattr(conv2d_relu, "worthwhile", lambda *args, first=first: first)
        results.append(conv2d_relu.backward(grad, input, weight, output, *ONE, (True, True, True)))
    assert not any(bool(gradient.isnan().any()) for gradient in results[0])
    all_same(*results)


@pytest.mark.parametrize(("rows", "warps"), [(64, 4), (128, 8), (256, 8)])
@pytest.mark.parametrize("module", [data_gradient, weight_gradient], ids=["data", "weight"])
def test_tiles_of_many_rows_have_eight_warps_where_they_mask(module: ModuleType, rows: int, warps: int) -> None:
    """Four would spill what is masked in registers."""
    config = {data_gradient: Config(rows, 64, 0, 32, 4, 3), weight_gradient: SplitConfig(rows, 64, 32, 4, 3, 1)}[module]
    for masked, wanted in ((False, 4), (True, warps)):
        launch = module.launch_of(layer("conv3"), config, masked, TARGETS[90])
        assert launch.constants["num_warps"] == wanted


def test_masking_first_is_for_gradients_that_are_loaded_often() -> None:
    conv3 = layer("conv3").geometry
    elements = conv3.GEMM_M * conv3.K
    assert masked_gradient.worthwhile(elements, 9 + 7, torch.bfloat16, TARGETS[90])
    assert not masked_gradient.worthwhile(elements, 2, torch.bfloat16, TARGETS[90])
    assert not masked_gradient.worthwhile(elements // 128, 9 + 7, torch.bfloat16, TARGETS[90])


@pytest.mark.parametrize(
    ("shape", "stride", "dilation"),
    [
        ((1, 1, 2**16, 2**15 + 8), (2**16 - 1, 2**14), 1),  # rows of one image
        ((3, 1, 2**15, 2**15), (2**15 - 1, 2**14), 1),  # images
        ((1, 1, 2**16, 2**15 + 8), (1, 2**14), 2**16 - 1),  # taps of one filter
    ],
    ids=["rows", "images", "taps"],
)
def test_addresses_beyond_31_bits(shape: tuple[int, int, int, int], stride: tuple[int, int], dilation: int) -> None:
    """Over 2**31 elements, of which the convolution reads a few; on a CPU only their pages come into being."""
    input = torch.empty(shape, dtype=torch.float16, device=DEVICE)
    assert input.numel() > 2**31
    pixels = input[:, :, :: max(stride[0], dilation), :: stride[1]]
    pixels.copy_(torch.arange(1, pixels.numel() + 1, dtype=torch.float16).view(pixels.shape))
    taps = 2 if dilation > 1 else 1
    weight = torch.full((1, 1, taps, 1), 2.0, dtype=torch.float16, device=DEVICE)
    output = conv2d_relu.forward(input, weight, None, stride, (0, 0), (dilation, 1), 1)
    assert_same(output, 2 * (pixels[:, :, :1] + pixels[:, :, 1:]) if taps == 2 else 2 * pixels)


@pytest.mark.parametrize(
    ("field", "least", "others", "pairs"),
    [
        ("W", 2**15 - 5, {"H": 2**16 - 2}, ((2, 3), (1, 2), (1, 1))),  # in an image with its padding
        ("W", 2**15 - 6, {"H": 2**15 - 3, "K": 2}, ((1, 1), (1, 2), (1, 1))),  # in its output pixels
        ("W", 43684, {"H": 2**15 - 3, "K": 3}, ((1, 2), (1, 2), (1, 1))),
        ("C", 2**15 - 1, {"K": 2**16}, ((1, 1), (0, 0), (1, 1))),  # in the filters
    ],
)
def test_where_places_need_more_than_31_bits(field: str, least: int, others: dict[str, int], pairs: tuple) -> None:
    """For a tile beyond the last, too: from 2**31 - 2**16 on."""
    image = Geometry(1, 1, 1, 1, 1, 1, 1, *pairs, 1)._replace(**others)
    for size, index in ((least - 1, tl.int32), (least, tl.int64)):
        assert index_type(image._replace(**{field: size})) is index


def test_torchs_precision_setting() -> None:
    for setting, read in (
        (torch.backends.cudnn.conv, lambda dtype: precision.input_precision(dtype, "conv")),  # type: ignore[attr-defined]
        (torch.backends.cuda.matmul, lambda dtype: precision.input_precision(dtype, "matmul")),
    ):
        before = setting.fp32_precision
        try:
            for value in ("tf32", "ieee"):
                setting.fp32_precision = value
                assert read(torch.float32) == value
                assert read(torch.float16) == "ieee"
        finally:
            setting.fp32_precision = before


def test_missing_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.missing("cpu", torch.float32) is None
    assert kernels.missing("cpu", torch.float16) is None
    assert "bfloat16" in str(kernels.missing("cpu", torch.bfloat16))
    assert "float64" in str(kernels.missing("cpu", torch.float64))
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "TRITON_INTERPRET=1" in str(kernels.missing("cpu", torch.float32))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for capability, there in (((7, 5), False), ((8, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, found=capability: found)
        assert (kernels.missing("cuda", torch.float32) is None) == there


@pytest.mark.parametrize(("device", "cuda"), [("cuda", None), ("xpu", "13.0")])
def test_compiled_kernels_want_cuda_and_a_torch_that_has_it(
    device: str, cuda: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(kernels, "unusable", lambda *_: None)
    assert f"a torch built for CUDA, not {device}" in str(kernels.missing(device, torch.float32))
