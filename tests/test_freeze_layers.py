"""A snapshot of a network of any style: what stands outside of Sequentials is packed layer by layer, and stays one."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

import alexkern
from alexkern.backends.cpu.packed_conv2d import LARGE, MOST_SIZES
from alexkern.frozen import FrozenSequential
from alexkern.frozen.modules import PackedConv2d, PackedLinear
from support.copies import copies


class Written(nn.Module):
    """As people write them: attributes, functions, a list, a shared layer, one that nobody calls, two heads, a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu = nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(inplace=True)
        self.conv2, self.norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.convs = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)])
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.never = nn.Conv2d(7, 5, 3)
        self.fc1, self.drop, self.fc2 = nn.Linear(16 * 3 * 3, 20), nn.Dropout(), nn.Linear(20, 4)
        self.other = nn.Linear(20, 2)
        self.norm.running_mean.normal_()  # type: ignore[union-attr]

    def forward(self, image: Tensor, tap: bool = False) -> Any:
        value = F.max_pool2d(self.relu(self.conv1(image)), 2)
        value = kept = F.relu(self.norm(self.conv2(value)))
        for conv in self.convs:
            value = torch.relu(conv(value))
        value = F.relu(self.convs[0](value) + F.conv2d(kept, self.convs[0].weight * 0.5, padding=1))
        value = self.block(value).view(len(image), -1)  # which needs NCHW
        value = self.drop(F.relu(self.fc1(value)))
        return (self.fc2(value), self.other(value), kept) if tap else self.fc2(value)


LAYERS = ("conv1", "conv2", "convs.0", "convs.1", "never", "fc1", "fc2", "other")
RUN = [1, 1, 1, 1, 1, 3, 1, 1]  # children that each packed layer stood for in a call: convs.0 twice, the block once


@pytest.fixture
def model() -> Written:
    torch.manual_seed(3)
    return Written().eval().requires_grad_(False)


@pytest.fixture
def image(generator: torch.Generator) -> Tensor:
    return torch.randn(2, 3, 24, 24, generator=generator)


def exact(model: nn.Module, image: Tensor, **flags: Any) -> Any:
    return copy.deepcopy(model).double()(image.double(), **flags)


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_layer_is_packed_and_right(channels_last: bool, model: Written, image: Tensor, ran: list[int]) -> None:
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
        model.to(memory_format=torch.channels_last)
        model.block.append(nn.Flatten(start_dim=0))  # for view to find memory that it can take
    frozen = alexkern.freeze(model)
    for batch in (image, image[:1], torch.cat([image, image])):
        for found, wanted in zip(frozen(batch, tap=True), exact(model, batch, tap=True), strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert ran == [*RUN, 1] * 3
    assert frozen(image, tap=True)[2].stride() == model(image, tap=True)[2].stride()
    report = {entry.children[0]: entry.operator for entry in alexkern.fusion_report(frozen).fused}
    assert report == {name: "linear" if name in LAYERS[5:] else "conv2d" for name in LAYERS} | {
        "block.0": "conv2d_relu_max_pool2d"
    }


def test_it_is_still_the_model(model: Written, image: Tensor) -> None:
    frozen = alexkern.freeze(model)
    for (name, module), (own, child) in zip(model.named_modules(), frozen.named_modules(), strict=True):
        assert name == own and isinstance(child, type(module))
        packed = {nn.Conv2d: PackedConv2d, nn.Linear: PackedLinear, nn.Sequential: FrozenSequential}
        inside = name.startswith("block.")
        assert type(child) is (type(module) if inside else packed.get(type(module), type(module)))
        assert vars(child).keys() - vars(module).keys() <= {"_plan", "_gains"}
    assert list(frozen.state_dict()) == list(model.state_dict())
    assert "kernel_size=(5, 5), stride=(2, 2), padding=(2, 2), weight=float32 " in repr(frozen.conv1)
    again = alexkern.freeze(frozen)
    assert torch.equal(again(image), frozen(image)) and type(again.fc1) is PackedLinear
    assert alexkern.unfuse(again) is again and list(map(type, again.modules())) == list(map(type, model.modules()))
    assert torch.equal(again(image), model(image))
    for module, child in zip(model.modules(), again.modules(), strict=True):
        assert vars(child).keys() == vars(module).keys()


def test_copies_of_every_kind(model: Written, image: Tensor, ran: list[int]) -> None:
    frozen = alexkern.freeze(model)
    wanted = frozen(image)
    for again in (copy.copy(frozen), *copies(frozen)):
        ran.clear()
        assert torch.equal(again(image), wanted) and ran == RUN
    assert len(pickle.dumps(frozen)) < 1.1 * len(pickle.dumps(model)) + 1000


CHANGES: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "load_state_dict": lambda z, state: z.load_state_dict(state),
    "of a layer": lambda z, state: z.fc1.load_state_dict({name: state[f"fc1.{name}"] for name in ("weight", "bias")}),
    "in place": lambda z, _: [parameter.mul_(1.5) for parameter in z.parameters()],
    "a new weight": lambda z, state: setattr(z.conv2, "weight", nn.Parameter(state["conv2.weight"])),
    "dtype there and back": lambda z, _: z.bfloat16().float(),
    "another layer": lambda z, _: setattr(z, "conv2", nn.Conv2d(8, 16, 1).requires_grad_(False)),
    "forward": lambda z, _: setattr(z.fc1, "forward", lambda rows: rows[:, :20]),
    "_conv_forward": lambda z, _: setattr(z.conv1, "_conv_forward", lambda image, weight, bias: image[:, :1, ::2, ::2]
                                          .repeat(1, 8, 1, 1)),
    "pruned": lambda z, _: prune.l1_unstructured(z.fc2, "weight", 0.5),
    "parametrized": lambda z, _: [parametrizations.weight_norm(layer) for layer in (z.conv1, z.fc1)],
    "double": lambda z, _: z.double(),
    "pre hook": lambda z, _: z.convs[1].register_forward_pre_hook(lambda _, args: (args[0] + 1,)),
    "hook": lambda z, _: z.fc1.register_forward_hook(lambda _, __, output: output * 2),
}  # fmt: skip
SAME = {"parametrized", "double"}  # numbers


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("captured", [False, pytest.param(True, marks=pytest.mark.full)])
def test_what_is_changed_is_seen_at_the_next_call(captured: bool, change: str, model: Written, image: Tensor) -> None:
    state = {name: value + 0.25 for name, value in model.state_dict().items()}
    frozen = alexkern.freeze(model, image if captured else None)
    before = frozen(image)
    for network in (model, frozen):
        torch.manual_seed(9)
        with torch.no_grad():
            CHANGES[change](network, copy.deepcopy(state))
    image = image.to(next(model.parameters()).dtype)
    with torch.no_grad():
        wanted = model(image)
        torch.testing.assert_close(frozen(image), wanted, rtol=1e-5, atol=1e-5)
    assert (change in SAME) == torch.allclose(wanted.float(), before, rtol=1e-4, atol=1e-4)
    assert repr(frozen)  # whatever became of it


def test_gradients_autocast_tracers_and_watchers_meet_torchs_layers(
    model: Written, image: Tensor, ran: list[int]
) -> None:
    frozen = alexkern.freeze(model)
    gradients = []
    for network in (model, frozen):
        leaf = image.clone().requires_grad_()
        gradients.append(torch.autograd.grad(network(leaf).square().sum(), leaf)[0])
    torch.testing.assert_close(*gradients)
    frozen.fc2.requires_grad_(True)
    ran.clear()
    assert frozen(image).requires_grad and ran == RUN[:-1]
    frozen.fc2.requires_grad_(False)
    ran.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(frozen(image), model(image))
    counts = []
    for network in (model, frozen):
        with FlopCounterMode(display=False) as counter:
            network(image)
        counts.append(counter.get_total_flops())
    traced = torch.jit.trace(frozen, image, check_trace=False)
    exported = torch.export.export(frozen, (image,))
    assert ran == [] and counts[0] == counts[1]
    for graph in (traced.inlined_graph, exported.graph):
        assert "mkldnn" not in str(graph) and "alexkern::" not in str(graph)
    with pytest.raises(RuntimeError, match="alexkern.PackedConv2d: torch.jit.script is not supported"):
        torch.jit.script(frozen.conv1)


def test_freeze_does_not_call_train(model: Written, image: Tensor) -> None:
    class Own(Written):
        def train(self, batches: Any, epochs: int) -> Any:  # type: ignore[override]
            raise AssertionError("called")

    torch.manual_seed(3)
    own = Own()  # in training mode
    frozen = alexkern.freeze(own)
    assert own.training and not any(module.training for module in frozen.modules())
    torch.testing.assert_close(frozen(image), exact(model, image).float(), rtol=1e-5, atol=1e-5)
    snapshot = alexkern.freeze(model).train()
    assert snapshot.training and snapshot.drop.training and not snapshot.conv1.training and not snapshot.block.training


def test_what_is_packed_goes_with_its_layer(model: Written, image: Tensor) -> None:
    """By count of references: no cycle keeps weights until a collection."""
    frozen = alexkern.freeze(model)
    weights = [weakref.ref(frozen.fc1.step().weight), weakref.ref(frozen.conv1.step().weight), weakref.ref(frozen.fc1)]
    del frozen
    assert [weight() for weight in weights] == [None] * 3


def test_the_first_convolution_takes_bytes_and_rounds(model: Written, generator: torch.Generator) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    images = torch.randint(256, (2, 3, 24, 24), generator=generator, dtype=torch.uint8)
    columns = [torch.tensor(row).view(3, 1, 1) for row in (mean, std)]
    frozen = alexkern.freeze(model, mean=mean, std=std)
    wanted = exact(model, (images / 255 - columns[0]) / columns[1]).float()
    torch.testing.assert_close(frozen(images), wanted, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # and by torch's own layers
        torch.testing.assert_close(frozen(images).float(), wanted, rtol=5e-2, atol=5e-2)
    half = alexkern.freeze(copy.deepcopy(model).bfloat16())
    image = torch.randn(2, 3, 24, 24, generator=generator)
    torch.testing.assert_close(half(image).float(), exact(model, image).float(), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("alone", [False, True])
def test_filters_are_packed_for_the_sizes_that_come(alone: bool, generator: torch.Generator) -> None:
    """For few at a time, whatever the batch; large images have one for all of theirs."""
    torch.manual_seed(1)
    layer = nn.Conv2d(24, 40, 3, padding=1)
    model = layer if alone else nn.Sequential(layer, nn.ReLU())
    frozen = alexkern.freeze(model, torch.zeros(1, 24, 2, 2))
    (blocks,) = (frozen.step() if alone else frozen._current().steps[0]).ways[-1:]
    sizes = [(size, size + 1) for size in range(1, MOST_SIZES + 3)]
    images = [torch.randn(batch, 24, *size, generator=generator) for size in sizes for batch in (1, 3)]
    large = torch.randn(2, 24, LARGE, LARGE + 1, generator=generator)
    for image in (*images, large, images[0], large[:1, :, :, 1:]):
        for one in (image, image.contiguous(memory_format=torch.channels_last)):
            with torch.no_grad():
                found, wanted = frozen(one), model(one)
                reference = exact(model, one)
            torch.testing.assert_close(found.double(), reference, rtol=1e-5, atol=1e-5)
            assert found.stride() == wanted.stride()
    if hasattr(blocks, "packed"):  # oneDNN is there
        assert list(blocks.packed) == [*((1, 24, *size) for size in sizes[2 - MOST_SIZES :]), (), (1, 24, *sizes[0])]
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            alexkern.freeze(nn.Conv2d(24, 40, 3))(torch.zeros(1, 24, 1, 1))


def test_filters_of_bfloat16_are_packed_for_the_batch_too(generator: torch.Generator) -> None:
    """Its blocks are others for one or two images than for more: wrong ones are put in order at every call."""
    torch.manual_seed(1)
    model = nn.Conv2d(24, 40, 3, padding=1).bfloat16()
    frozen = alexkern.freeze(model)
    (blocks,) = frozen.step().ways[-1:]
    for batch in (0, 1, 3, 1):
        image = torch.randn(batch, 24, 19, 20, generator=generator).bfloat16()
        with torch.no_grad():
            torch.testing.assert_close(frozen(image), model(image))
    if hasattr(blocks, "packed"):
        assert list(blocks.packed) == [(1, 24, 19, 20), (3, 24, 19, 20)]
