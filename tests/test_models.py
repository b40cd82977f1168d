"""The three AlexNets: shapes, parameters, and everything that code written for torchvision's does with a model."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alexkern
from alexkern.models import MODELS, AlexNet, alexnet, alexnet_2012
from alexkern.nn import FusedSequential
from support.copies import copies
from support.optional import need
from support.tiny import Narrow

PARAMETERS = {"alexnet": 61_100_840, "alexnet_2012": 60_965_224, "alexnet_single_tower": 62_378_344}
HIDDEN, NUM_CLASSES = 8, 5

every_model = pytest.mark.parametrize("name", list(MODELS))


class PlainAlexNet(nn.Module):
    """torchvision's alexnet, written down once more with torch's modules alone; `hidden` is 4096 there."""

    def __init__(self, hidden: int = 4096, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 6 * 6, hidden), nn.ReLU(inplace=True)),
            *(nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, num_classes)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def of_the_paper(groups: int = 1, norm: tuple[nn.Module, ...] = ()) -> list[nn.Module]:
    """The layers of the 2012 paper: in one tower, or in two with normalisation."""
    return [
        *(nn.Conv2d(3, 96, 11, 4, 2), nn.ReLU(inplace=True), *norm, nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=groups), nn.ReLU(inplace=True), *norm, nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=groups), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=groups), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        nn.AdaptiveAvgPool2d((6, 6)),
        *(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(4096, 1000)),
    ]


LAYERS = {
    "alexnet": lambda: layers(PlainAlexNet()),
    "alexnet_2012": lambda: of_the_paper(2, (nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0),)),
    "alexnet_single_tower": of_the_paper,
}


@pytest.fixture(scope="module")
def model() -> AlexNet:
    """Quick to run and copy, for the tests that leave it as they found it."""
    torch.manual_seed(1)
    return Narrow(NUM_CLASSES).eval()


@pytest.fixture(scope="module")
def plain(model) -> PlainAlexNet:
    """The same weights in torch's own modules."""
    network = PlainAlexNet(HIDDEN, NUM_CLASSES)
    network.load_state_dict(model.state_dict(), strict=True)
    return network.eval()


@pytest.fixture
def images(generator) -> Tensor:
    return torch.randn(2, 3, 63, 63, generator=generator)


def on_meta(name: str, **arguments) -> AlexNet:
    """A model without numbers, where only its modules and shapes matter."""
    with torch.device("meta"):
        return MODELS[name](**arguments)


def assert_near(ours: Tensor, want: Tensor) -> None:
    """Equal but for float32 rounding through up to eight layers."""
    torch.testing.assert_close(ours, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


def keep(seen: list[Tensor], layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    """A forward hook that keeps the output as it was then: the ReLU after a layer works in place."""
    seen.append(output.clone())


def layers(model: nn.Module) -> list[nn.Module]:
    return [*model.features, model.avgpool, *model.classifier]


@every_model
def test_the_layers(name):
    model = on_meta(name)
    with torch.device("meta"):
        wanted = LAYERS[name]()
    assert repr(layers(model)) == repr(wanted)
    assert [type(child) for child in model.children()] == [FusedSequential, nn.AdaptiveAvgPool2d, FusedSequential]
    assert list(model._modules) == ["features", "avgpool", "classifier"] and model.name == name
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_a_training_step_is_that_of_plain_modules(model, plain, images):
    """In float64, where the two may differ by their order of summation alone. No dropout: it draws bits of its own."""
    gradients = []
    for network in (copy.deepcopy(model).double(), copy.deepcopy(plain).double()):
        nn.functional.cross_entropy(network(images.double()), torch.tensor([3, 0])).backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert len(gradients[0]) == 16
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-12, msg=name)


def test_averages_of_single_pixels_are_left_out(model, plain, generator, monkeypatch):
    """At 224 pixels the features are 6 x 6 already: only whoever looks makes the pooling run."""
    sizes: list[tuple[int, ...]] = []
    pool = torch._C._nn.adaptive_avg_pool2d

    def counted(input: Tensor, *args: Any) -> Tensor:
        sizes.append(tuple(input.shape[-2:]))
        return pool(input, *args)

    monkeypatch.setattr(torch._C._nn, "adaptive_avg_pool2d", counted)
    large = torch.randn(1, 3, 224, 224, generator=generator)
    with torch.no_grad():
        want = model(large)
        assert sizes == []
        assert_near(want, plain(large))
        sizes.clear()
        model(large[..., :192, :])
        assert sizes == [(5, 6)]
        seen: list[Tensor] = []
        with_hook = model.avgpool.register_forward_hook(partial(keep, seen))
        assert torch.equal(model(large), want) and len(seen) == 1
        with_hook.remove()
        with monkeypatch.context() as patch:
            patch.setattr(nn.AdaptiveAvgPool2d, "forward", lambda self, input: input * 0)
            assert not torch.equal(model(large), want)
    assert [node.target for node in torch.fx.symbolic_trace(model).graph.nodes if node.name == "avgpool"] == ["avgpool"]


def test_a_hook_changes_what_follows(model, images):
    with torch.no_grad():
        hook = model.features[1].register_forward_hook(lambda _, __, output: output * 0)
        blank = model(images)
        hook.remove()
        hook = model.features[0].register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0,))
        black = model(images)
        hook.remove()
        assert torch.equal(blank[0], blank[1]) and torch.equal(black[0], black[1])
        assert not torch.equal(blank, black) and not torch.equal(*model(images))


def test_deepcopy_and_pickle(model, images):
    with torch.no_grad():
        want = model(images)
        for twin in copies(model):
            assert type(twin) is Narrow and type(twin.features) is FusedSequential
            assert twin.classes is None and twin.transforms() == model.transforms()
            assert torch.equal(twin(images), want)
            twin.features[0].weight.zero_()
        assert torch.equal(model(images), want)


@every_model
def test_the_smallest_image(name):
    model = on_meta(name, num_classes=3).eval()
    features = MODELS[name](num_classes=1).features
    with torch.no_grad():
        assert features(torch.zeros(1, 3, 63, 63)).shape == (1, 256, 1, 1)
        assert features(torch.zeros(0, 3, 63, 63)).shape == (0, 256, 1, 1)
        assert model(torch.empty(2, 3, 63, 63, device="meta")).shape == (2, 3)
        for size in ((62, 63), (63, 62)):
            with pytest.raises(RuntimeError, match="too small"):
                features(torch.zeros(1, 3, *size))


@every_model
@pytest.mark.parametrize("dropout", [0, 1])
def test_the_ends_of_dropout(name, dropout):
    modules = on_meta(name, dropout=dropout).modules()
    assert [layer.p for layer in modules if isinstance(layer, nn.Dropout)] == [dropout, dropout]


WRONG = [
    *(("num_classes", value) for value in (0, -1, 2.5, "10", None)),
    *(("dropout", value) for value in (-0.1, 1.1, float("nan"))),
]


@every_model
@pytest.mark.parametrize("argument, value", WRONG)
def test_what_arguments_cannot_be(name, argument, value):
    with pytest.raises(ValueError, match=f"{name}: {argument} must be .* got {value!r}"):
        on_meta(name, **{argument: value})


@every_model
def test_names_of_older_torchvision(name):
    with torch.device("meta"):
        for model in (MODELS[name](False), MODELS[name](None), MODELS[name](pretrained=False, num_classes=7)):
            assert type(model).name == name
    with pytest.raises(TypeError, match=f"{name}: wanted weights or pretrained"):
        MODELS[name](pretrained=True, weights="DEFAULT")
    with pytest.raises(TypeError, match=f"{name}.. takes from 0 to 1 positional arguments"):
        MODELS[name](None, None)


@pytest.mark.parametrize("build", [nn.Identity, lambda: nn.Sequential(nn.AdaptiveMaxPool2d(6), nn.Identity())])
@pytest.mark.parametrize("way", [lambda model: model, alexkern.fuse, alexkern.freeze])
def test_another_pooling(way, build, model, plain, generator):
    ours, theirs = copy.deepcopy(model), copy.deepcopy(plain)
    ours.avgpool, theirs.avgpool = build(), build()
    images = torch.randn(1, 3, 224, 224, generator=generator)
    with torch.no_grad():
        assert_near(way(ours)(images), theirs(images))


def test_initialisation_of_the_paper():
    torch.manual_seed(4)
    model = alexnet_2012()
    convolutions = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    linears = [layer for layer in model.classifier if isinstance(layer, nn.Linear)]
    assert [conv.groups for conv in convolutions] == [1, 2, 1, 2, 2]
    for layer, bias in zip(convolutions + linears, (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
        assert (layer.bias == bias).all()
        count = layer.weight.numel()
        assert abs(layer.weight.mean()) < 5 * 0.01 / count**0.5
        assert layer.weight.std().item() == pytest.approx(0.01, rel=5 / (2 * count) ** 0.5)


def test_normalisation_of_the_paper():
    """Section 3.3: x / (2 + 1e-4 * (sum of squares over 5 neighbouring channels)) ** 0.75, written out in float64."""
    norms = [layer for layer in on_meta("alexnet_2012").features if isinstance(layer, nn.LocalResponseNorm)]
    assert len(norms) == 2
    x = torch.linspace(-200, 300, 16, dtype=torch.float64).view(1, 16, 1, 1)
    channels = x.flatten().tolist()
    sums = [sum(value**2 for value in channels[max(0, c - 2) : c + 3]) for c in range(16)]
    want = [value / (2 + 1e-4 * total) ** 0.75 for value, total in zip(channels, sums, strict=True)]
    for norm in norms:
        torch.testing.assert_close(norm(x).flatten(), torch.tensor(want, dtype=torch.float64))


def test_as_torchvision(generator):
    torchvision = need("torchvision")
    ours, theirs = alexnet().eval(), torchvision.models.alexnet().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert [name for name, _ in theirs.named_modules()] == [name for name, _ in ours.named_modules()]
    batch = torch.randn(2, 3, 224, 224, generator=generator)
    with torch.no_grad():
        assert_near(ours(batch), theirs(batch))
