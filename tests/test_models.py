"""The three AlexNets: shapes, parameters, and everything that code written for torchvision's does with a model."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import alexkern
from alexkern.models import MODELS, AlexNet, ImageClassification, alexnet, alexnet_2012, alexnet_single_tower
from alexkern.nn import FusedSequential
from support.optional import need

# torchvision's alexnet, entry for entry.
STATE_DICT = {
    "features.0.weight": (64, 3, 11, 11),
    "features.0.bias": (64,),
    "features.3.weight": (192, 64, 5, 5),
    "features.3.bias": (192,),
    "features.6.weight": (384, 192, 3, 3),
    "features.6.bias": (384,),
    "features.8.weight": (256, 384, 3, 3),
    "features.8.bias": (256,),
    "features.10.weight": (256, 256, 3, 3),
    "features.10.bias": (256,),
    "classifier.1.weight": (4096, 9216),
    "classifier.1.bias": (4096,),
    "classifier.4.weight": (4096, 4096),
    "classifier.4.bias": (4096,),
    "classifier.6.weight": (1000, 4096),
    "classifier.6.bias": (1000,),
}
PARAMETERS = {"alexnet": 61_100_840, "alexnet_2012": 60_965_224, "alexnet_single_tower": 62_378_344}
# The output of every layer for one 224 x 224 image, as (layer, shape without N).
TORCHVISION_SHAPES = [
    ("Conv2d", (64, 55, 55)),
    ("ReLU", (64, 55, 55)),
    ("MaxPool2d", (64, 27, 27)),
    ("Conv2d", (192, 27, 27)),
    ("ReLU", (192, 27, 27)),
    ("MaxPool2d", (192, 13, 13)),
    ("Conv2d", (384, 13, 13)),
    ("ReLU", (384, 13, 13)),
    ("Conv2d", (256, 13, 13)),
    ("ReLU", (256, 13, 13)),
    ("Conv2d", (256, 13, 13)),
    ("ReLU", (256, 13, 13)),
    ("MaxPool2d", (256, 6, 6)),
    ("AdaptiveAvgPool2d", (256, 6, 6)),
    ("Dropout", (9216,)),
    ("Linear", (4096,)),
    ("ReLU", (4096,)),
    ("Dropout", (4096,)),
    ("Linear", (4096,)),
    ("ReLU", (4096,)),
    ("Linear", (1000,)),
]
SINGLE_TOWER_SHAPES = [
    ("Conv2d", (96, 55, 55)),
    ("ReLU", (96, 55, 55)),
    ("MaxPool2d", (96, 27, 27)),
    ("Conv2d", (256, 27, 27)),
    ("ReLU", (256, 27, 27)),
    ("MaxPool2d", (256, 13, 13)),
    ("Conv2d", (384, 13, 13)),
    ("ReLU", (384, 13, 13)),
    ("Conv2d", (384, 13, 13)),
    ("ReLU", (384, 13, 13)),
    ("Conv2d", (256, 13, 13)),
    ("ReLU", (256, 13, 13)),
    ("MaxPool2d", (256, 6, 6)),
    ("AdaptiveAvgPool2d", (256, 6, 6)),
    ("Linear", (4096,)),
    ("ReLU", (4096,)),
    ("Dropout", (4096,)),
    ("Linear", (4096,)),
    ("ReLU", (4096,)),
    ("Dropout", (4096,)),
    ("Linear", (1000,)),
]
# The paper's network is the single tower's with normalisation between the first two ReLUs and their pools.
PAPER_SHAPES = [
    *SINGLE_TOWER_SHAPES[:2],
    ("LocalResponseNorm", (96, 55, 55)),
    *SINGLE_TOWER_SHAPES[2:5],
    ("LocalResponseNorm", (256, 27, 27)),
    *SINGLE_TOWER_SHAPES[5:],
]
SHAPES = {"alexnet": TORCHVISION_SHAPES, "alexnet_2012": PAPER_SHAPES, "alexnet_single_tower": SINGLE_TOWER_SHAPES}
HIDDEN, NUM_CLASSES = 32, 5
LPIPS_SLICES = [(0, 2), (2, 5), (5, 8), (8, 10), (10, 12)]

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


@pytest.fixture(scope="module")
def model() -> AlexNet:
    """An alexnet with narrow hidden layers, quick to run and copy, for the tests that leave it as they found it."""
    torch.manual_seed(1)
    model = on_meta("alexnet")
    for index, sizes in {1: (9216, HIDDEN), 4: (HIDDEN, HIDDEN), 6: (HIDDEN, NUM_CLASSES)}.items():
        model.classifier[index] = nn.Linear(*sizes, device="meta")
    model.to_empty(device="cpu")
    for layer in layers(model):
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return model.eval()


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
def test_the_output_of_every_layer(name):
    model = on_meta(name).eval()
    seen = []
    for layer in layers(model):
        layer.register_forward_hook(lambda layer, _, output: seen.append((type(layer).__name__, tuple(output.shape))))
    model(torch.empty(1, 3, 224, 224, device="meta"))
    assert seen == [(layer, (1, *shape)) for layer, shape in SHAPES[name]]


@every_model
def test_parameters(name):
    model = on_meta(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert len(model.state_dict()) == 16 and not list(model.buffers())
    assert model.name == name


@every_model
def test_a_relu_follows_every_convolution_and_hidden_layer(name):
    model = on_meta(name)
    for sequence in (model.features, model.classifier):
        assert type(sequence) is FusedSequential
        for layer, follower in zip(sequence, [*sequence[1:], None], strict=True):
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer is not model.classifier[6]:
                assert isinstance(follower, nn.ReLU) and follower.inplace


def test_the_single_tower_has_one_group():
    assert [conv.groups for conv in on_meta("alexnet_single_tower").features if isinstance(conv, nn.Conv2d)] == [1] * 5


def test_state_dict_of_torchvision():
    found = {name: tuple(tensor.shape) for name, tensor in on_meta("alexnet").state_dict().items()}
    assert list(found.items()) == list(STATE_DICT.items())


def test_weights_go_to_plain_modules_and_back(generator):
    torch.manual_seed(2)
    ours, plain = alexnet().eval(), PlainAlexNet().eval()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    batch = torch.randn(2, 3, 224, 224, generator=generator)
    with torch.no_grad():
        plain.load_state_dict(ours.state_dict(), strict=True)
        assert_near(ours(batch), plain(batch))
        ours.classifier[6].weight.zero_()
        ours.features[0].bias.zero_()
        ours.load_state_dict(plain.state_dict(), strict=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


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


def test_slices_as_lpips_takes_them(model, plain, images):
    taps, wanted = [], []
    for start, stop in LPIPS_SLICES:
        ours, theirs = model.features[start:stop], plain.features[start:stop]
        assert isinstance(ours, FusedSequential) and list(ours) == list(model.features)[start:stop]
        with torch.no_grad():
            taps.append(ours(taps[-1].clone() if taps else images))
            wanted.append(theirs(wanted[-1].clone() if wanted else images))
    for tap, want in zip(taps, wanted, strict=True):
        assert_near(tap, want)
    with torch.no_grad():
        assert torch.equal(model.features[12](taps[-1]), model.features(images))


def test_hooks_on_any_child_fire(model, plain, images):
    """One child at a time, so that every way of breaking up a fused run is met."""
    with torch.no_grad():
        want = plain(images)
        for ours, theirs in zip(layers(model), layers(plain), strict=True):
            seen: list[Tensor] = []
            hooks = [layer.register_forward_hook(partial(keep, seen)) for layer in (ours, theirs)]
            logits = model(images)
            plain(images)
            for hook in hooks:
                hook.remove()
            assert len(seen) == 2, type(ours).__name__
            assert_near(seen[0], seen[1])
            assert_near(logits, want)


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


@pytest.mark.parametrize("part, index", [("features", 3), ("features", 6), ("classifier", 1), ("classifier", 6)])
def test_pruning(model, plain, images, part, index):
    pruned, thinned = copy.deepcopy(model), copy.deepcopy(plain)
    layer = getattr(pruned, part)[index]
    prune.l1_unstructured(layer, "weight", amount=0.7)
    assert f"{part}.{index}.weight_orig" in pruned.state_dict()
    getattr(thinned, part)[index].weight.data = layer.weight.detach().clone()
    with torch.no_grad():
        want = thinned(images)
        assert_near(pruned(images), want)
        prune.remove(layer, "weight")
        assert_near(pruned(images), want)
        assert (layer.weight == 0).float().mean().item() == pytest.approx(0.7, abs=0.01)
        assert not torch.allclose(want, plain(images))


def test_deepcopy_and_pickle(model, images):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    with torch.no_grad():
        want = model(images)
        for twin in twins:
            assert type(twin) is AlexNet and type(twin.features) is FusedSequential
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
def test_num_classes_and_dropout(name):
    model = on_meta(name, num_classes=7, dropout=0.25)
    assert tuple(model.state_dict()["classifier.6.weight"].shape) == (7, 4096)
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    assert on_meta(name).classifier[6].out_features == 1000
    for dropout in (0.5, 0, 1):
        layers = on_meta(name, **{} if dropout == 0.5 else {"dropout": dropout}).modules()
        assert [layer.p for layer in layers if isinstance(layer, nn.Dropout)] == [dropout, dropout]


@every_model
@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "10", None])
def test_num_classes_it_cannot_have(name, num_classes):
    with pytest.raises(ValueError, match=f"{name}: num_classes must be .* got {num_classes!r}"):
        on_meta(name, num_classes=num_classes)


@every_model
@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan")])
def test_dropout_it_cannot_have(name, dropout):
    with pytest.raises(ValueError, match=f"{name}: dropout must be .* got {dropout!r}"):
        on_meta(name, dropout=dropout)


@every_model
def test_signature(name):
    parameters = inspect.signature(MODELS[name]).parameters.values()
    assert [(parameter.name, parameter.default) for parameter in parameters] == [
        ("pretrained", False),
        ("weights", None),
        ("progress", True),
        ("num_classes", 1000),
        ("dropout", 0.5),
    ]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in [*parameters][1:])


@every_model
def test_names_of_older_torchvision(name):
    with torch.device("meta"):
        for model in (MODELS[name](False), MODELS[name](None), MODELS[name](pretrained=False, num_classes=7)):
            assert type(model).name == name
    with pytest.raises(TypeError, match=f"{name}: wanted weights or pretrained"):
        MODELS[name](pretrained=True, weights="DEFAULT")


@pytest.mark.parametrize("build", [nn.Identity, lambda: nn.Sequential(nn.AdaptiveMaxPool2d(6), nn.Identity())])
@pytest.mark.parametrize("way", [lambda model: model, alexkern.fuse, alexkern.freeze])
def test_another_pooling(way, build, model, plain, generator):
    ours, theirs = copy.deepcopy(model), copy.deepcopy(plain)
    ours.avgpool, theirs.avgpool = build(), build()
    images = torch.randn(1, 3, 224, 224, generator=generator)
    with torch.no_grad():
        assert_near(way(ours)(images), theirs(images))


def test_dropout_is_on_in_training_alone(model, images):
    with torch.no_grad():
        assert torch.equal(model(images), model(images))
        model.train()
        torch.manual_seed(3)
        once, twice = model(images), model(images)
        torch.manual_seed(3)
        again = model(images)
        model.eval()
    assert not torch.equal(once, twice) and torch.equal(once, again)


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


@every_model
def test_transforms(name):
    assert on_meta(name).transforms() == ImageClassification(crop_size=224, resize_size=256)


def test_seeds():
    torch.manual_seed(5)
    once = alexnet_single_tower()
    torch.manual_seed(5)
    again = alexnet_single_tower()
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_as_torchvision(generator):
    torchvision = need("torchvision")
    ours, theirs = alexnet().eval(), torchvision.models.alexnet().eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert [name for name, _ in theirs.named_modules()] == [name for name, _ in ours.named_modules()]
    batch = torch.randn(2, 3, 224, 224, generator=generator)
    with torch.no_grad():
        assert_near(ours(batch), theirs(batch))
