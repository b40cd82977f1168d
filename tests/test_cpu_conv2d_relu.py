"""Convolution in fewer products, in training, on every instruction set: as accurate as the rule asks, torch's NaN and
infinities, alike for any number of threads; what the table does not name is torch's. With avx512bf16 in bfloat16, with
the others in float32."""

from __future__ import annotations

import copy
import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern import dispatch
from alexkern.accuracy import assert_accurate, assert_same
from alexkern.backends import cpu
from alexkern.backends.cpu import conv2d_relu_max_pool2d, crossovers, max_pool2d, winograd
from alexkern.backends.cpu.conv2d_relu_max_pool2d import by_image
from alexkern.backends.cpu.crossovers import Tiled
from alexkern.geometry import Geometry, convolution
from alexkern.plan import is_channels_last
from support import processor
from support.canaries import canaries
from support.processor import LAYOUTS, SETS

EVERY, NOTHING = (True,) * 3, (False,) * 3  # of input, weight and bias
WHAT = ("forward", "input_grad", "weight_grad")
pytestmark = processor.served
isa = pytest.fixture(params=SETS, name="isa")(processor.isa)


@pytest.fixture
def dtype(isa: str) -> torch.dtype:
    return torch.bfloat16 if isa == "avx512bf16" else torch.float32


@pytest.fixture
def every_product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Nothing that can be done in tiles is left to torch, or in tiles of M x M, which are the fixture's parameter."""
    M = getattr(request, "param", 2)
    products = ("forward", "input_grad", "packed", "forward of blocks", "input_grad of blocks")
    tiles = tuple(Tiled(R, 1, 1) for R in winograd.SIZES)
    everything = dict.fromkeys(("weight_grad", "weight_grad of blocks"), tiles)
    everything |= dict.fromkeys(products, (*tiles, Tiled(3, 1, 1, M)))
    everything |= {f"{product}, bfloat16": served for product, served in everything.items()}
    monkeypatch.setattr(crossovers, "CONVOLUTIONS", dict.fromkeys(crossovers.CONVOLUTIONS, everything))
    for limit in ("WORTH", "WORTH_ON_AMD", "WORTH_OF_GRADIENT_ON_AMD", "WORTH_PACKED", "LARGER"):
        monkeypatch.setattr(crossovers, limit, math.inf)
    monkeypatch.setattr(conv2d_relu_max_pool2d, "LEAST_TILES", 1)
    return M


def has_kernel(what: str, R: int, dtype: torch.dtype, M: int = 2) -> bool:
    """For filters of R x R pixels or blocks of pixels."""
    return dtype == torch.float32 or (M == 2 and (R == 3 or what == "weight_grad"))


def assert_close(found: Tensor, wanted: Tensor, what: str = "result") -> None:
    """As torch has it for float32; of bfloat16 to two of the largest value's last places, points being rounded too."""
    narrow = {"rtol": 0.0, "atol": 2**-6 * wanted.abs().max().item()} if wanted.dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found, wanted, msg=what, **narrow)


def ran(isa: str) -> bool:
    """Whether ours did, since this was last asked."""
    last = cpu.native().last_kernel()
    cpu.native().forget_kernel()
    return last.startswith("winograd") and last.endswith(f", {isa}")


class Layer:
    """Operands of a convolution and of its backward, and what torch makes of them."""

    def __init__(
        self,
        case: tuple,
        generator: torch.Generator,
        layouts: tuple[str, str] = ("contiguous",) * 2,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        N, C, K, H, W, R, padding, groups, *strides = case
        image = torch.randn(N, C * groups, H, W, generator=generator)
        weight = torch.randn(K * groups, C, R, R, generator=generator) / math.sqrt(C * R * R)
        self.dtype = dtype
        self.image, self.weight = (
            tensor.to(dtype).contiguous(memory_format=LAYOUTS[layout])
            for tensor, layout in zip((image, weight), layouts, strict=True)
        )
        self.bias = torch.randn(K * groups, generator=generator).to(dtype)
        stride = strides[0] if strides else 1
        self.settings = ((stride, stride), padding, (1, 1), groups)
        shape = F.conv2d(self.image, self.weight, None, *self.settings).shape
        self.grad, self.output = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))

    def forward(self, backend: str, dtype: torch.dtype | None = None) -> Tensor:
        operands = (one.to(dtype or self.dtype) for one in (self.image, self.weight, self.bias))
        return dispatch.implementation(backend, "conv2d_relu").forward(*operands, *self.settings)

    def backward(self, backend: str, needs: tuple[bool, bool, bool], dtype: torch.dtype | None = None) -> tuple:
        operands = (one.to(dtype or self.dtype) for one in (self.grad, self.image, self.weight, self.output))
        return dispatch.implementation(backend, "conv2d_relu").backward(*operands, *self.settings, needs)

    def everything(self, backend: str) -> tuple[Tensor, ...]:
        """The output, and the gradients of image, weight and bias."""
        return self.forward(backend), *self.backward(backend, EVERY)

    def input_grad(self, backend: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.backward(backend, (True, False, False), dtype)[0]

    def weight_grad(self, backend: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.backward(backend, (False, True, False), dtype)[1]

    def keeps_the_rule(self, what: str, isa: str) -> bool:
        """It does; and whether it was ours."""
        cpu.native().forget_kernel()
        ours, reference, torchs = (getattr(self, what)(*of) for of in (("cpu",), ("torch", torch.float64), ("torch",)))
        assert_accurate(ours, reference, torchs, what)
        return ran(isa)

    def magnitudes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of the terms' magnitudes, for output and gradients of image and weight."""
        image, weight, grad, bias = (one.float().abs() for one in (self.image, self.weight, self.grad, self.bias))
        stride, padding, dilation, groups = self.settings
        numbers = (list(self.bias.shape), stride, padding, dilation, False, (0, 0), groups, (True, True, False))
        back = torch.ops.aten.convolution_backward(grad, image, weight, *numbers)
        return F.conv2d(image, weight, bias, *self.settings), *back[:2]


# N, C and K of a group, H, W, R, padding, groups, stride: channels and filters that fill no vector, images of one
# pixel, padding beyond the filter, tiles that reach beyond the image, runs and blocks of many tiles; blocks of pixels
# that the filter fills in part, that lie in the padding, that the image ends in, and an image that ends behind them.
CASES = [
    (2, 3, 5, 7, 9, 3, (1, 1), 1),
    (1, 1, 1, 1, 1, 3, (1, 1), 1),
    (2, 17, 33, 13, 12, 3, (0, 1), 1),
    (2, 7, 5, 6, 11, 5, (2, 2), 2),
    (3, 5, 17, 9, 40, 5, (6, 4), 1),
    (1, 16, 32, 3, 70, 3, (1, 1), 1),
    (2, 3, 5, 7, 9, 3, (4, 5), 1),
    (2, 1, 7, 5, 5, 5, (0, 2), 3),
    (9, 40, 36, 6, 5, 3, (1, 1), 1),
    (1, 150, 3, 5, 2, 3, (1, 1), 1),
    (2, 3, 33, 47, 151, 11, (2, 2), 1, 4),
    (1, 5, 7, 12, 9, 5, (3, 0), 1, 2),
    (2, 2, 3, 30, 31, 13, (0, 9), 1, 3),
    (1, 1, 5, 16, 21, 9, (7, 8), 1, 4),
    (2, 3, 5, 19, 23, 6, (0, 1), 1, 2),
]


TILED = [(case, M) for case in CASES for M in ((2, 4) if -(-case[5] // (case[8:] or (1,))[0]) == 3 else (2,))]


@pytest.mark.parametrize(("case", "every_product"), TILED, ids=str, indirect=["every_product"])
def test_any_convolution(
    case: tuple, isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: int
) -> None:
    """Of few channels torch's error may be a small one by luck: that of the terms' magnitudes is the measure."""
    R, M = -(-case[5] // (case[8:] or (1,))[0]), every_product if dtype == torch.float32 else 2
    for layouts in product(LAYOUTS, repeat=2):
        layer = Layer(case, generator, layouts, dtype)
        channels_last = is_channels_last(layer.image) or is_channels_last(layer.weight)
        strided = layer.settings[0] != (1, 1)
        with canaries() as buffers:
            output = layer.forward("cpu").clone()
            assert ("4x4" in cpu.native().last_kernel()) == (M == 4 and channels_last)
            forward = ran(isa)
            assert forward == ((not strided or channels_last) and has_kernel("forward", R, dtype))
            assert len(buffers) >= 3 or not forward  # filters, output and workspace
            gradient = layer.input_grad("cpu").clone()
            # Over contiguous images it is torch's with a stride, and of 5x5.
            assert ran(isa) == ((channels_last or (not strided and R == 3)) and has_kernel("input_grad", R, dtype))
        with canaries():
            weight_gradient = layer.weight_grad("cpu").clone()
            assert ran(isa) == (not strided or channels_last)
        found = (output, gradient, weight_gradient)
        for one, what, magnitude in zip(found, WHAT, layer.magnitudes(), strict=True):
            reference, torchs = (getattr(layer, what)("torch", wide) for wide in (torch.float64, dtype))
            assert one.stride() == torchs.stride()
            # By larger tiles twice as much, which therefore serve many channels alone.
            times = (4 if M == 2 else 8) if dtype == torch.float32 else 1
            bound = times * torch.finfo(dtype).eps * magnitude.max()
            torch.testing.assert_close(one.double(), reference, rtol=0, atol=bound.item(), msg=f"{what}, {layouts}")


# AlexNet's conv2 to conv5, one of few channels, one in tiles of 4x4 where they pay, and one with two groups.
LAYERS = {
    "conv2": (1, 64, 192, 27, 27, 5, (2, 2), 1),
    "conv3": (2, 192, 384, 13, 13, 3, (1, 1), 1),
    "conv4": (2, 384, 256, 13, 13, 3, (1, 1), 1),
    "conv5": (2, 256, 256, 13, 13, 3, (1, 1), 1),
    "narrow": (8, 32, 64, 28, 28, 3, (1, 1), 1),
    "of large tiles": (2, 192, 200, 28, 27, 3, (1, 1), 1),
    "groups": (2, 48, 128, 27, 27, 5, (2, 2), 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_accuracy_rule(name: str, layout: str, isa: str, dtype: torch.dtype, generator: torch.Generator) -> None:
    """By what serves by default, over numbers like a network's: behind a ReLU, gradients of which half are 0."""
    layer = Layer(LAYERS[name], generator, (layout, layout), dtype)
    layer.image = layer.image.relu()
    layer.grad *= torch.rand(layer.grad.shape, generator=generator) < 0.5
    for what in WHAT:
        of = convolution(layer.image, layer.weight, *layer.settings)
        assert layer.keeps_the_rule(what, isa) == (crossovers.in_tiles(what, of, dtype, layout == "channels_last") > 0)


def test_the_accuracy_rule_over_blocks(
    isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: None
) -> None:
    """AlexNet's conv1, over smaller images than those that it serves by default."""
    layer = Layer((1, 3, 64, 103, 99, 11, (2, 2), 1, 4), generator, ("channels_last",) * 2, dtype)
    assert all(layer.keeps_the_rule(what, isa) for what in WHAT)


EACH_TILE = pytest.mark.parametrize(
    ("isa", "R", "every_product"),
    [(isa, R, M) for isa in SETS for R, M in ((3, 2), (3, 4), (5, 2)) if isa != "avx512bf16" or (R, M) == (3, 2)],
    indirect=["isa", "every_product"],
)


@EACH_TILE
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_where_torch_has_them(
    value: float, R: int, isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: int
) -> None:
    def layer() -> Layer:
        return Layer((3, 5, 9, 8, 7, R, (R // 2, R // 2), 1), generator, ("channels_last", "channels_last"), dtype)

    for changed, place in (("image", (1, 2, 3, 4)), ("weight", (4, 3, 1, 1)), ("bias", (6,))):
        one = layer()
        getattr(one, changed)[place] = value
        output = one.forward("cpu")
        assert ran(isa)
        assert_same(output, one.forward("torch"), changed)
    one, place = layer(), (1, 2, 3, 4)
    one.grad[place], one.output[place], one.output[0, 0, 0, 0] = value, 1.0, math.nan
    gradients = one.input_grad("cpu")
    assert ran(isa) and not gradients.isfinite().all()
    assert_same(gradients, one.input_grad("torch"))
    for found, wanted in zip(one.backward("cpu", EVERY), one.backward("torch", EVERY), strict=True):
        assert_same(found, wanted)
    one.output[place] = 0.0  # the ReLU lets nothing pass there, whatever it is
    ran(isa)
    gradients = one.input_grad("cpu")
    assert ran(isa) and gradients.isfinite().all()
    assert_close(gradients, one.input_grad("torch"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_over_blocks(
    value: float, isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: None
) -> None:
    """Blocks end in zeros beside the filter's taps, which an infinity would make NaN of."""
    for changed, place in (("image", (1, 2, 3, 4)), ("weight", (4, 2, 10, 0)), ("grad", (1, 2, 3, 4))):
        one = Layer((2, 3, 7, 31, 34, 11, (2, 1), 1, 4), generator, ("channels_last",) * 2, dtype)
        getattr(one, changed)[place], one.output[1, 2, 3, 4] = value, 1.0
        found = one.everything("cpu")
        assert ran(isa) and not all(tensor.isfinite().all() for tensor in found)
        for tensor, wanted in zip(found, one.everything("torch"), strict=True):
            assert_same(tensor.isfinite(), wanted.isfinite(), changed)
            assert_same(tensor[~tensor.isfinite()], wanted[~wanted.isfinite()], changed)


@EACH_TILE
def test_what_overflows_on_the_way_alone_is_convolved_plainly(
    R: int, isa: str, dtype: torch.dtype, every_product: int
) -> None:
    image = torch.full((2, 3, 9, 9), 2.5e38, dtype=dtype)
    image[:, :, ::4] *= -1
    weight, bias = torch.full((4, 3, R, R), 1e-3, dtype=dtype), torch.zeros(4, dtype=dtype)
    settings = ((1, 1), (0, 0), (1, 1), 1)
    ours, torchs = (
        dispatch.implementation(backend, "conv2d_relu").forward(image, weight, bias, *settings)
        for backend in ("cpu", "torch")
    )
    assert ran(isa) and torchs.isfinite().all() and torchs.max() > 1e34
    assert_same(ours, torchs)


def unaligned(tensor: Tensor) -> Tensor:
    """channels_last, an element behind the start of its memory."""
    N, C, H, W = tensor.shape
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:]
    return memory.view(N, H, W, C).permute(0, 3, 1, 2).copy_(tensor)


def test_any_strides(isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: None) -> None:
    layer = Layer((2, 6, 5, 9, 8, 3, (1, 1), 1), generator, ("channels_last",) * 2, dtype)
    wanted = layer.everything("torch")
    changes = {
        "a slice": {"image": torch.stack((layer.image,) * 2, dim=2)[:, :, 1], "bias": layer.bias.repeat(2)[5:]},
        "transposed": {"image": layer.image.transpose(2, 3).contiguous().transpose(2, 3)},
        "filters last": {"weight": layer.weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)},
        "rows and columns": {"weight": layer.weight.transpose(2, 3).contiguous().transpose(2, 3)},
        "unaligned": {name: unaligned(getattr(layer, name)) for name in ("image", "weight", "grad", "output")},
        "gradient": {"grad": layer.grad.contiguous(memory_format=torch.channels_last)},
    }
    for what, tensors in changes.items():
        changed = copy.copy(layer)
        for name, tensor in tensors.items():
            assert torch.equal(tensor, getattr(layer, name))
            setattr(changed, name, tensor)
        found = changed.everything("cpu")
        assert ran(isa)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other, what)
    layer.grad = layer.grad[:1, :1, :1, :1].expand_as(layer.grad)
    assert_close(layer.input_grad("cpu"), layer.input_grad("torch"))


@pytest.mark.parametrize("every_product", [2, 4], indirect=True)
def test_the_same_bits_for_any_number_of_threads(
    isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: int
) -> None:
    # The first two and the last have tiles enough for a filter's gradient in two parts.
    cases = (
        (13, 40, 96, 13, 12, 3, (1, 1), 1),
        (13, 40, 33, 13, 12, 5, (2, 2), 1),
        (2, 16, 40, 9, 9, 5, (2, 2), 2),
        (10, 3, 70, 60, 61, 11, (2, 2), 1, 4),
    )
    for case, layout in product(cases, LAYOUTS):
        layer = Layer(case, generator, (layout, layout), dtype)
        torch.set_num_threads(1)
        wanted = layer.everything("cpu")
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            found = layer.everything("cpu")
            # Over contiguous images the gradient of the input is torch's for 5x5, and all that has a stride.
            strided, R = len(case) > 8, 3 if case[5] == 11 else case[5]
            own = {0: has_kernel("forward", R, dtype), 2: True}
            own[1] = has_kernel("input_grad", R, dtype) and (layout != "contiguous" or (R == 3 and not strided))
            plain = dtype == torch.bfloat16 and strided and layout == "contiguous"  # torch's, which goes by threads
            assert all(plain or not own[place] or torch.equal(found[place], wanted[place]) for place in own)


def test_pooled_at_once(isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: None) -> None:
    """Small whole numbers, of which F(2x2, 3x3) is exact: torch's values, winners and gradients to the bit."""
    ours, torchs = (dispatch.implementation(name, "conv2d_relu_max_pool2d") for name in ("cpu", "torch"))
    arguments = ((1, 1), (1, 1), (1, 1), 1, (3, 3), (2, 2), (1, 1), True)
    for layout in LAYOUTS.values():
        image, weight, bias = (
            torch.randint(-3, 4, shape, generator=generator).to(dtype)
            for shape in ((2, 5, 13, 12), (19, 5, 3, 3), (19,))
        )
        image = image.contiguous(memory_format=layout)
        cpu.native().forget_kernel()
        found, wanted = (of.forward(image, weight, bias, *arguments) for of in (ours, torchs))
        assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1]) and bool((found[0] == 0).any())
        grad = torch.randint(-3, 4, found[0].shape, generator=generator).to(dtype).contiguous(memory_format=layout)
        backward = (grad, image, weight, found[1], *arguments[:-1], EVERY)
        cpu.native().forget_kernel()
        gradients = ours.backward(*backward)
        assert ran(isa)
        for one, other in zip(gradients, torchs.backward(*backward), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        image[1, 2, 3, 4] = math.inf
        found, wanted = (of.forward(image, weight, bias, *arguments) for of in (ours, torchs))
        assert_same(found[0], wanted[0])


# As CASES, the threads, and outputs of a tile a side.
BY_IMAGE = [
    ((3, 5, 40, 13, 12, 3, (1, 1), 1), 1, 2),
    ((1, 40, 70, 9, 8, 3, (1, 1), 1), 1, 2),
    ((4, 7, 33, 21, 24, 3, (0, 1), 2), 2, 2),
    ((4, 7, 33, 21, 24, 3, (0, 1), 2), 2, 4),
    ((2, 16, 40, 9, 9, 5, (2, 2), 1), 2, 2),
    ((2, 3, 33, 47, 39, 11, (2, 2), 1, 4), 1, 2),
]


@pytest.mark.parametrize(
    ("isa", "case", "threads", "M"),
    [
        (isa, case, threads, M)
        for isa in SETS
        for case, threads, M in BY_IMAGE
        if isa != "avx512bf16" or (M == 2 and case[5] != 5)
    ],
    ids=str,
    indirect=["isa"],
)
def test_image_by_image_the_bits_of_two_passes(
    case: tuple, threads: int, M: int, isa: str, dtype: torch.dtype, generator: torch.Generator, every_product: None
) -> None:
    """Filters packed beforehand or on the way, with and without ReLU and offsets."""
    torch.set_num_threads(threads)
    for layout in LAYOUTS if len(case) == 8 else ("channels_last",):
        layer, channels_last = Layer(case, generator, (layout, layout), dtype), layout == "channels_last"
        of = convolution(layer.image, layer.weight, *layer.settings)
        packed = winograd.pack(layer.weight, of, M)
        convolved = winograd.convolve(layer.image, packed, layer.bias, False, channels_last)
        assert convolved is not None
        windows = ((3, 3), (2, 2), (0, 0), (1, 1), False), ((2, 3), (1, 2), (1, 1), (1, 1), True)
        for window, relu in product(windows, (False, True)):
            wanted = max_pool2d.reduce(convolved, window, True, relu=relu)
            for filters, save in ((packed, True), (winograd.to_pack(layer.weight, of, M), False)):
                ran(isa)
                with canaries():
                    args = layer.image, filters, layer.bias, window, channels_last
                    found = by_image(*args, relu=relu, save_offsets=save)
                assert ran(isa) and found is not None and torch.equal(found[0], wanted[0])
                assert torch.equal(found[1], wanted[1]) if save else found[1] is None


def test_what_the_table_does_not_name_is_torchs(
    isa: str, dtype: torch.dtype, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit."""
    table = {"forward": (Tiled(3, 4, 20),), "input_grad": (Tiled(5, 4, 20), Tiled(5, 9, 1))}
    table |= {f"{name}, bfloat16": served for name, served in table.items()}
    monkeypatch.setattr(crossovers, "CONVOLUTIONS", {crossovers.measured(): table})

    def served(case: tuple) -> tuple[bool, bool]:
        cpu.native().forget_kernel()
        layer = Layer(case, generator, ("channels_last",) * 2, dtype)
        output = layer.forward("cpu")
        forward = ran(isa)
        gradient = layer.input_grad("cpu")
        backward = ran(isa)
        assert forward or torch.equal(output, layer.forward("torch"))
        assert backward or torch.equal(gradient, layer.input_grad("torch"))
        return forward, backward

    assert served((2, 4, 5, 12, 12, 3, (1, 1), 1)) == (True, False)
    for case in ((2, 4, 4, 12, 12, 5, (2, 2), 1), (1, 9, 9, 8, 8, 5, (2, 2), 1)):
        assert served(case) == (False, dtype == torch.float32)
    for case in (
        (2, 4, 3, 12, 12, 3, (1, 1), 1),  # filters
        (2, 4, 4, 6, 6, 3, (1, 1), 1),  # tiles
        (1, 4, 4, 8, 8, 5, (2, 2), 1),
        (20, 9, 9, 3, 3, 5, (2, 2), 1),  # mostly padding
        (2, 4, 5, 12, 12, 4, (1, 1), 1),
    ):
        assert served(case) == (False, False)
    layer = Layer((2, 9, 9, 12, 12, 3, (1, 1), 1), generator, dtype=dtype)
    assert torch.equal(layer.weight_grad("cpu"), layer.weight_grad("torch")) and not ran(isa)
    layer.settings = ((2, 2), (1, 1), (1, 1), 1)
    assert torch.equal(layer.forward("cpu"), layer.forward("torch")) and not ran(isa)
    assert layer.backward("cpu", NOTHING) == (None, None, None)


@pytest.mark.parametrize(
    ("large", "small", "worth", "M"),
    [
        (0.6 * 0.6, 0.6, 0.65, 4),
        (0.37, 0.6, 0.65, 2),
        (0.37, 0.65, 0.65, 4),
        (0.4, 0.65, 0.65, 2),
        (0.4, 0.66, 0.65, 0),
        (0.65, 2.0, 0.65, 4),
        (0.66, 2.0, 0.65, 0),
        (0.66, 2.0, 1.4, 4),
    ],
)
def test_tiles_are_as_large_as_their_share_of_the_products_allows(
    large: float, small: float, worth: float, M: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the convolution's, and those of 4x4 of those of 2x2 as well."""
    monkeypatch.setattr(crossovers.winograd, "share", lambda product, of, M: large if M == 4 else small)
    of = Geometry(2, 192, 13, 11, 192, 3, 3, (1, 1), (1, 1), (1, 1), 1)
    choose = crossovers._in_tiles.__wrapped__
    served = (Tiled(3, 192, 84), Tiled(3, 192, 84, 4))  # 7 x 6 tiles of two images
    assert choose(served, worth, "forward", of, torch.float32, True) == M
    assert choose(served[:1], worth, "forward", of, torch.float32, True) == (2 if small <= worth else 0)
    assert choose(served, worth, "forward", of, torch.float32, False) == (2 if small <= worth else 0)
    assert choose((Tiled(3, 192, 85), Tiled(3, 192, 85, 4)), worth, "forward", of, torch.float32, True) == 0
    assert choose((Tiled(3, 192, 85), Tiled(3, 192, 84, 4)), worth, "forward", of, torch.float32, True) == (
        M if M == 4 else 0
    )


@pytest.mark.parametrize("what", ["forward", "packed", "input_grad", "weight_grad"])
@pytest.mark.parametrize(
    ("sizes", "R", "stride", "padding"),
    [((14, 17), 3, 1, (1, 0)), ((9, 12), 5, 1, (2, 3)), ((31, 40), 11, 4, (2, 0)), ((21, 19), 13, 3, (0, 5))],
)
def test_the_share_of_the_products_that_are_left(
    sizes: tuple[int, int], R: int, stride: int, padding: tuple[int, int], what: str
) -> None:
    """Those of all tiles, for each that the convolution has with a pixel of the image."""
    of = Geometry(1, 1, *sizes, 1, R, R, (stride, stride), padding, (1, 1), 1)
    blocks, filters = -(-R // stride), torch.ones(1, 1, R, R)
    pairs = F.conv2d(torch.ones(1, 1, *sizes), filters, None, stride, padding).sum().item()
    extents = (of.P, of.Q)
    if what == "input_grad":  # of all pixels, or of the blocks that the windows reach
        extents = sizes if stride == 1 else (of.P + blocks - 1, of.Q + blocks - 1)
    for M in (2, 4) if blocks == 3 else (2,):
        points = 7 if what == "weight_grad" and blocks == 5 else M + blocks - 1
        tiles = math.prod(-(-extent // M) for extent in extents)
        assert winograd.share(what, of, M) == pytest.approx(tiles * (points * stride) ** 2 / pairs)
    beside = of._replace(H=1, W=1, R=3, S=3, stride=(1, 1), padding=(3, 3))
    assert winograd.share(what, beside, 2) < math.inf == winograd.share(what, beside._replace(H=0), 2)


@pytest.mark.parametrize("amd", [False, True])
def test_how_many_products_are_worth_it(amd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    module = SimpleNamespace(isa=lambda: "portable", amd=amd)
    monkeypatch.setattr(crossovers, "native", lambda: module)
    monkeypatch.setattr(crossovers, "_in_tiles", lambda served, worth, product, *rest: asked.append(worth) or 0)
    for what in ("packed", "forward", "input_grad", "weight_grad"):
        for R in (3, 5):
            of = Geometry(1, 4, 9, 9, 4, R, R, (1, 1), (1, 1), (1, 1), 1)
            crossovers.in_tiles(what, of, torch.float32, True)
    plain = crossovers.WORTH_ON_AMD if amd else crossovers.WORTH
    gradient = crossovers.WORTH_OF_GRADIENT_ON_AMD if amd else crossovers.WORTH
    assert asked == [crossovers.WORTH_PACKED, *[plain] * 5, *[gradient] * 2]


def test_bfloat16_is_multiplied_by_its_own_instructions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the table names it, in tiles of 2x2, and 5x5 filters' gradients."""
    every = tuple(Tiled(R, 1, 1, M) for R in winograd.SIZES for M in (2, 4))
    table = {f"{what}, bfloat16": every for what in (*WHAT, "packed")}
    monkeypatch.setattr(crossovers, "CONVOLUTIONS", dict.fromkeys(crossovers.CONVOLUTIONS, table))
    found = {}
    for isa in ("avx512bf16", "avx512"):
        monkeypatch.setattr(crossovers, "native", lambda isa=isa: SimpleNamespace(isa=lambda: isa, amd=False))
        for what, R in product((*WHAT, "packed"), winograd.SIZES):
            of = Geometry(2, 64, 28, 28, 64, R, R, (1, 1), (R // 2, R // 2), (1, 1), 1)
            assert crossovers.in_tiles(what, of, torch.float32, True) == 0
            found[isa, what, R] = crossovers.in_tiles(what, of, torch.bfloat16, True)
    wanted = {("avx512bf16", what, 3): 2 for what in (*WHAT, "packed")} | {("avx512bf16", "weight_grad", 5): 2}
    assert {key: M for key, M in found.items() if M} == wanted
