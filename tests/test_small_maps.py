"""Images so small that no operator gains what its call costs: torch's own layers run, whatever has happened to them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern.backends import extension
from alexkern.backends.cpu.crossovers import is_ours, served
from alexkern.frozen.captured import _CAPTURES
from alexkern.nn import FusedSequential, Match, Weighed

pytestmark = pytest.mark.skipif(extension.cpu.module is None, reason="weighs csrc/cpu against torch")
KEY, GAINS = Weighed._key, Match.gains


@pytest.fixture(autouse=True)
def weighed(monkeypatch: pytest.MonkeyPatch, small_networks_gain: None) -> None:
    monkeypatch.setattr(Weighed, "_key", KEY)
    monkeypatch.setattr(Match, "gains", GAINS)


def network() -> nn.Sequential:
    torch.manual_seed(5)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 16), nn.ReLU()
    return nn.Sequential(*layers)


SMALL, LARGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.ones(128, 3, 8, 8)


def test_operators_run_where_they_gain(operators: list[str]) -> None:
    fused = alexkern.fuse(network())
    for images, gaining in ((SMALL, []), (LARGE, ["conv2d_relu_max_pool2d"])):
        fused(images)  # finds it out
        assert operators == ["conv2d_relu_max_pool2d", "linear_relu_dropout"]
        operators.clear()
        fused(images)
        assert operators == gaining
        operators.clear()


def test_a_linear_layer_runs_where_a_product_of_its_rows_gains(operators: list[str]) -> None:
    fused = alexkern.fuse(nn.Sequential(nn.Linear(1024, 1024), nn.ReLU()))
    few = [(rows, False, is_ours("forward", fused[0].weight, rows)) for rows in (1, 16)]
    for rows, grad, gains in (*few, (500, False, False), (1, True, bool(served("weight_grad")))):
        with torch.set_grad_enabled(grad):
            for _ in range(2):
                operators.clear()
                fused(torch.ones(rows, 1024))
        assert bool(operators) is gains, (rows, grad)


def test_what_torch_is_behind_in_at_any_size_runs(operators: list[str]) -> None:
    fused = alexkern.fuse(nn.Sequential(nn.LocalResponseNorm(3), nn.Dropout(0.5)))
    for _ in range(2):
        operators.clear()
        fused(SMALL)
    assert len(operators) == 2


def test_what_was_asked_for_by_name_runs(operators: list[str]) -> None:
    fused = alexkern.fuse(network())
    fused(SMALL), fused(SMALL)
    operators.clear()
    with alexkern.backend("cpu"):
        fused(SMALL), fused(SMALL)
    assert len(operators) == 4


@pytest.mark.parametrize("kind", ["fused", "frozen"])
def test_edits_hooks_modes_and_gradients_are_seen(kind: str) -> None:
    model = network()
    other = alexkern.fuse(copy.deepcopy(model)) if kind == "fused" else alexkern.freeze(model)
    for net in (model, other):
        net(SMALL)
        net(SMALL)
    assert 0 in other._gains.values()
    seen: list[str] = []
    for net in (model, other):
        with torch.no_grad():
            net[0].weight.mul_(2)
        net[4] = nn.Linear(128, 16, bias=False, dtype=torch.float32)
        net[4].weight = nn.Parameter(torch.full((16, 128), 0.01), requires_grad=False)
        net[2].kernel_size, net[2].stride = 3, 2
        net[2].padding = 1
        net[1].register_forward_hook(lambda *_: seen.append("hook"))
    image = SMALL.clone().requires_grad_()
    results = [net(image) for net in (model, other)]
    gradients = [torch.autograd.grad(result.sum(), image)[0] for result in results]
    assert seen == ["hook", "hook"]
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(other(SMALL), model(SMALL))


def test_a_snapshot_of_small_images_runs_as_it_is() -> None:
    frozen = alexkern.freeze(network())
    with torch.no_grad():
        for images, gains in ((SMALL, False), (torch.randn(4, 3, 8, 8), True)):
            wanted = network()(images)
            for _ in range(2):
                torch.testing.assert_close(frozen(images), wanted)
            assert ([*frozen._gains.values()][-1] > 0) is gains
        frozen[0].weight.mul_(2)
        torch.testing.assert_close(frozen(SMALL), nn.Sequential(*frozen)(SMALL))


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.second(F.max_pool2d(F.relu(self.first(images)), 2))), 2).flatten(1)


def test_a_captured_call_of_little_work_is_the_models_own() -> None:
    """What dynamo asks before a call takes longer than its graph saves."""
    model = Own()
    frozen = alexkern.freeze(model, SMALL)
    small, large, calls = torch.randn(2, 3, 8, 8), torch.randn(128, 3, 32, 32), []
    capture = _CAPTURES[frozen]
    run = capture.run
    capture.run = lambda *inputs: calls.append(len(inputs[1])) or run(*inputs)
    with torch.no_grad():
        for images in (small, large, small, large[:100]):
            wanted = model(images)
            for _ in range(3):
                torch.testing.assert_close(frozen(images), wanted)
    assert calls == [2, 128, 128, 128, 100, 100, 100] and capture.changes == 0
    with torch.no_grad():
        for layer in (frozen.second, model.second):
            layer.weight.mul_(2)
        for images in (small, large):
            torch.testing.assert_close(frozen(images), model(images))


def test_copies_and_the_way_back() -> None:
    fused = alexkern.fuse(network())
    wanted = fused(SMALL)
    copied = copy.deepcopy(fused)
    assert type(copied) is FusedSequential
    torch.testing.assert_close(copied(SMALL), wanted)
    torch.testing.assert_close(alexkern.unfuse(fused)(SMALL), wanted)
    assert "_gains" not in vars(fused)


def test_what_is_kept_in_mind_is_bounded() -> None:
    fused = alexkern.fuse(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    for rows in range(1, 100):
        fused(torch.zeros(rows, 2))
    assert len(fused._gains) == 64
    other = alexkern.fuse(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    other(nn.Parameter(torch.zeros(1, 2)))  # no plain tensor: it may be anybody's
    assert not other._gains


def test_a_compiled_call_is_torchs_own_where_ours_gains_nothing(operators: list[str]) -> None:
    torch._dynamo.reset()
    model = network()
    compiled = torch.compile(model, backend="alexkern", dynamic=False)
    torch.testing.assert_close(compiled(SMALL), model(SMALL))
    assert not operators
    torch.testing.assert_close(compiled(LARGE), model(LARGE))
    assert operators == ["conv2d_relu_max_pool2d"]
