"""freeze(model, example) of a network whose own forward calls its layers: chains of the captured graph are packed."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern.frozen import captured
from alexkern.frozen.step import PackedRun
from support.backends import serving
from support.drawn_networks import Drawn

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


class Net(nn.Module):
    """Layers as attributes, and a forward to be given."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.other = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.relu, self.pool = nn.BatchNorm2d(6), nn.ReLU(True), nn.MaxPool2d(2)
        self.part = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.fc, self.rows, self.last = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 5)
        self.never, self.flag, self.seen, self.given = nn.Conv2d(2, 2, 1), False, [], forward
        for norm in (self.norm, self.rows):
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.3, 2)  # type: ignore[arg-type]
            nn.init.normal_(norm.weight)

    def forward(self, image: Tensor) -> Any:
        return self.given(self, image)


def attributes(net: Any, image: Tensor) -> Tensor:
    value = net.pool(net.relu(net.norm(net.conv(image))))
    value = net.part(net.relu(net.other(value)))
    return net.last(net.relu(net.rows(net.fc(value.mean((2, 3))))))


def functions(net: Any, image: Tensor) -> Tensor:
    value = F.max_pool2d(F.relu(F.conv2d(image, net.conv.weight, net.conv.bias, padding=1)), 2, 2)
    value = F.relu_(net.other(value)).amax((2, 3))
    return F.linear(F.dropout(net.fc(value).relu(), training=net.training), net.last.weight)


def twice(net: Any, image: Tensor) -> Tensor:
    value = F.relu(net.conv(image))
    return net.other(F.relu(net.other(value))) + value


def taps(net: Any, image: Tensor) -> Any:
    value = net.conv(image)
    active = F.relu(value)
    kept = active + 1
    active = net.pool(net.other(active))
    return active.relu(), value, kept


def broken(net: Any, image: Tensor) -> Tensor:
    value = F.relu(net.conv(image))
    if value.sum() > 0:  # of data
        value = F.relu(net.other(value))
    net.seen.append(1)
    torch._dynamo.graph_break()
    return F.relu(net.fc(value.mean((2, 3))))


def computed(net: Any, image: Tensor) -> Tensor:
    value = F.relu(F.conv2d(image, net.conv.weight * 0.5, net.conv.bias))
    return F.relu(net.other(value))


# A forward, and the lengths of what runs packed.
FORWARDS: dict[str, tuple[Callable[[Any, Tensor], Any], list[int]]] = {
    "attributes": (attributes, [4, 2, 3, 3, 1]),
    "functions": (functions, [3, 2, 3, 1]),
    "twice": (twice, [2, 2, 1]),
    "taps": (taps, [1, 3]),
    "broken": (broken, [2, 2, 2]),
    "computed": (computed, [2]),
}


def exact(model: nn.Module, *args: Any) -> Any:
    return copy.deepcopy(model).double()(*(arg.double() if isinstance(arg, Tensor) else arg for arg in args))


def assert_right(frozen: nn.Module, model: nn.Module, *args: Any, **tolerance: Any) -> None:
    found, wanted, plain = frozen(*args), exact(model, *args), model(*args)
    values = zip(*(one if isinstance(one, tuple) else (one,) for one in (found, wanted, plain)), strict=True)
    for ours, truth, theirs in values:
        torch.testing.assert_close(ours.double(), truth, **({"rtol": 1e-5, "atol": 1e-5} | tolerance))
        assert ours.stride() == theirs.stride() and ours.dtype == theirs.dtype


@pytest.mark.parametrize("name", FORWARDS)
@torch.no_grad()
def test_runs_are_packed_whoever_calls_them(name: str, ran: list[int]) -> None:
    forward, lengths = FORWARDS[name]
    model, image = Net(forward).eval(), torch.randn(2, 3, 9, 8)
    frozen = alexkern.freeze(model, image)
    ran.clear()
    assert_right(frozen, model, image)
    assert ran == lengths
    for other in (torch.randn(5, 3, 9, 8), torch.randn(3, 3, 12, 13)):  # other sizes, of another graph
        assert_right(frozen, model, other)
    assert ran == 3 * lengths and isinstance(frozen, Net) and type(frozen).__name__ == "Net"


@torch.no_grad()
def test_copies_capture_again_and_edits_are_seen(ran: list[int]) -> None:
    model, image = Net(attributes).eval(), torch.randn(2, 3, 9, 8)
    frozen = alexkern.freeze(model, image)
    wanted, lengths = frozen(image), FORWARDS["attributes"][1]
    copies = (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen)), copy.copy(frozen), alexkern.freeze(frozen))
    for again in copies:
        ran.clear()
        assert torch.equal(again(image), wanted) and ran == lengths
        assert isinstance(again, captured.Captured) and list(again.state_dict()) == list(model.state_dict())
    state = {name: value + 0.25 for name, value in model.state_dict().items()}
    for network in (model, frozen):
        network.load_state_dict(state)
        network.last.weight = nn.Parameter(torch.ones(5, 7), requires_grad=False)
        network.conv.weight = nn.Parameter(network.conv.weight.detach() * 2, requires_grad=False)
        network.rows.bias.mul_(3)
    ran.clear()
    assert_right(frozen, model, image)
    assert ran == lengths and len(captured._CAPTURES[frozen].packed) == 2  # what the old weights were packed in is gone
    assert alexkern.unfuse(frozen) is frozen and type(frozen) is Net and torch.equal(frozen(image), model(image))


def test_who_watches_meets_the_layers(ran: list[int]) -> None:
    model, image = Net(attributes).eval(), torch.randn(2, 3, 9, 8)
    frozen = alexkern.freeze(model, image)
    ran.clear()
    assert not frozen(image).requires_grad and ran == FORWARDS["attributes"][1]  # with gradients on, which nobody wants
    torch.testing.assert_close(torch.func.vmap(frozen)(image[None]), model(image)[None])
    gradients = []
    for network in (model, frozen):
        leaf = image.clone().requires_grad_()
        gradients.append(torch.autograd.grad(network(leaf).square().sum(), leaf)[0])
    torch.testing.assert_close(*gradients)
    frozen.fc.requires_grad_(True)
    leaves = [*frozen.fc.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(frozen(image).sum(), leaves),
        torch.autograd.grad(model(image).sum(), [*model.fc.parameters()]),
    )
    frozen.requires_grad_(False)
    ran.clear()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert_right(frozen, model, image, rtol=3e-2, atol=3e-2)
    traced, exported = torch.jit.trace(frozen, image, check_trace=False), torch.export.export(frozen, (image,))
    for graph in (traced.inlined_graph, exported.graph):
        assert "mkldnn" not in str(graph) and "alexkern::" not in str(graph)
    assert ran == []
    with torch.no_grad():
        assert_right(torch.compile(frozen, backend="eager"), model, image)
        assert_right(frozen, model, image)
        seen: list[Tensor] = []
        handle = frozen.relu.register_forward_hook(lambda module, args, output: seen.append(output))
        assert_right(frozen, model, image)
        assert len(seen) == 3
        handle.remove()
        ran.clear()
        assert_right(frozen, model, image)
    assert ran == FORWARDS["attributes"][1]


class Stem(nn.Module):
    """The first convolution in a Sequential, what follows outside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 5, 3)

    def forward(self, image: Tensor) -> Any:
        return (F.relu(self.conv(self.stem(image))),)


@torch.no_grad()
def test_sequentials_inside_are_captured_whatever_serves_their_operators(ran: list[int]) -> None:
    model, image = Stem().eval(), torch.randn(2, 3, 9, 8)
    with alexkern.backend(next(name for name in serving("conv2d_relu") if name != "torch")):  # type: ignore[arg-type]
        frozen = alexkern.freeze(model, image)
        ran.clear()
        assert_right(frozen, model, image)
    assert ran == [2, 2]


@pytest.mark.parametrize(("make", "lengths"), [(lambda: Net(taps), FORWARDS["taps"][1]), (Stem, [2, 2])])
@torch.no_grad()
def test_the_first_convolution_takes_bytes_and_rounds(
    make: Callable[[], nn.Module], lengths: list[int], ran: list[int]
) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    model, images = make().eval(), torch.randint(256, (2, 3, 9, 8)).byte()
    columns = [torch.tensor(row).view(3, 1, 1) for row in (mean, std)]
    frozen = alexkern.freeze(model, images, mean=mean, std=std)
    wanted = exact(model, (images / 255 - columns[0]) / columns[1])
    torch.testing.assert_close(frozen(images), tuple(value.float() for value in wanted), rtol=1e-4, atol=1e-4)
    assert ran[-2:] == lengths
    frozen, image = alexkern.freeze(copy.deepcopy(model).bfloat16(), torch.randn(2, 3, 9, 8)), torch.randn(2, 3, 9, 8)
    for ours, truth in zip(frozen(image), exact(model, image), strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=5e-2, atol=5e-2)


@torch.no_grad()
def test_what_dynamo_cannot_capture_runs_as_without_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise torch._dynamo.exc.InternalTorchDynamoError("no such opcode")

    model, image = Net(attributes).eval(), torch.randn(2, 3, 9, 8)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    with pytest.warns(UserWarning, match="alexkern.freeze: Net runs layer by layer: no such opcode") as seen:
        frozen = alexkern.freeze(model, image)
    assert len(seen) == 1 and type(frozen) is Net and type(frozen.conv) is not nn.Conv2d
    assert_right(frozen, model, image)


@torch.no_grad()
def test_bad_input_says_so_and_is_forgotten(ran: list[int]) -> None:
    model, image = Net(attributes).eval(), torch.randn(2, 3, 9, 8)
    frozen = alexkern.freeze(model, image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrong in (torch.randn(2, 4, 9, 8), torch.randn(2, 3, 9, 8).double(), torch.randn(3)):
            with pytest.raises((RuntimeError, ValueError)):
                frozen(wrong)
    ran.clear()
    assert_right(frozen, model, image)
    assert ran == FORWARDS["attributes"][1]


def test_only_layers_outside_of_sequentials_are_captured() -> None:
    code = """
import sys, torch, alexkern
from torch import nn
image, conv = torch.randn(1, 3, 63, 63), nn.Conv2d(3, 4, 3)
for model in (alexkern.models.alexnet_2012(num_classes=3), nn.Sequential(conv, nn.ReLU()), conv):
    assert isinstance(alexkern.freeze(model.eval(), image), type(model)) and "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    model = Net(lambda net, image: image * net.conv.weight.sum())  # which has none that could be packed
    frozen = alexkern.freeze(nn.Sequential(model, nn.ModuleList([nn.Conv2d(3, 3, 1)])[0]), torch.randn(1, 3, 5, 5))
    assert type(frozen[0]) is Net
    graph = torch.fx.symbolic_trace(Net(attributes).eval())  # which says itself how it is copied
    assert not isinstance(alexkern.freeze(graph, torch.randn(1, 3, 5, 5)), captured.Captured)


@pytest.mark.parametrize(("layer", "packs"), [(nn.Linear(3, 3), True), (nn.LayerNorm(3), False)])
def test_what_has_a_matrix_can_be_packed(layer: nn.Module, packs: bool) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, rows: Tensor) -> Tensor:
            return self.layer(rows)

    module = Own()
    assert list(captured.outermost(nn.Sequential(module))) == [module] * packs


@torch.no_grad()
def test_a_module_that_changes_too_often_runs_layer_by_layer(ran: list[int]) -> None:
    model, image = Net(attributes).eval(), torch.randn(2, 3, 9, 8)
    frozen = alexkern.freeze(model, image)
    for changes in (captured.MOST_CHANGES - 1, captured.MOST_CHANGES, captured.MOST_CHANGES + 1):
        captured._CAPTURES[frozen].changes = changes
        ran.clear()
        assert_right(frozen, model, image)
        assert (ran == FORWARDS["attributes"][1]) is (changes <= captured.MOST_CHANGES)


def test_what_is_packed_goes_with_its_module() -> None:
    """By count of references: no cycle keeps weights until a collection."""
    frozen = alexkern.freeze(Net(attributes), torch.randn(2, 3, 9, 8))
    packed = captured._CAPTURES[frozen].packed.values()
    steps = [step for made in packed for step in made._current().steps if isinstance(step, PackedRun)]
    kept = [weakref.ref(step.weight) for step in steps]
    kept += [weakref.ref(frozen), weakref.ref(frozen.conv)]
    del frozen, packed, steps
    assert len(kept) == 7 and not any(reference() is not None for reference in kept)


def drawn(seed: int) -> None:
    model = Drawn(seed).eval()
    frozen = alexkern.freeze(model, model.image())
    with torch.no_grad():
        for batch in (2, 5):
            try:
                assert_right(frozen, model, model.image(batch), rtol=1e-4, atol=1e-4)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {model.written}") from error
    torch._dynamo.reset()


def test_drawn_networks() -> None:
    for seed in range(1, 4):
        drawn(seed)


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, 200, 20))
def test_more_drawn_networks(first: int) -> None:
    for seed in range(first, first + 20):
        drawn(seed)
