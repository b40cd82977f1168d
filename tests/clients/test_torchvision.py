"""torchvision: taps on its own networks, by a graph, by getters of layers, and by the Sequential's slices."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import alexkern
from support.clients import check, images
from support.optional import need

need("torchvision")
from torchvision.models import AlexNet_Weights, VGG11_Weights, _utils, feature_extraction  # noqa: E402

TAPS = {"features.1": "relu", "features.2": "pool", "classifier.4": "hidden"}


@pytest.mark.filterwarnings("ignore")
def test_feature_extraction() -> None:
    def run(model: nn.Module) -> object:
        with torch.no_grad():
            taps = feature_extraction.create_feature_extractor(model, TAPS)(images())
        return taps, feature_extraction.get_graph_node_names(model)

    check(run)


def test_layer_getter() -> None:
    def run(model: nn.Module) -> object:
        with torch.no_grad():
            return _utils.IntermediateLayerGetter(model.features, {"2": "first", "5": "second"})(images())

    check(run)


def test_a_trace_may_be_scripted() -> None:
    """Whole, and as a part of what is scripted, the children that it went through being torch's own."""

    class Twice(nn.Module):
        def __init__(self, part: nn.Module) -> None:
            super().__init__()
            self.part = part

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.part(x)

    def run(model: nn.Module) -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(model, images())
            return [torch.jit.script(whole)(images()) for whole in (traced, Twice(traced), nn.Sequential(traced))]

    check(run)


def test_enums_of_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="VGG11_Weights"):
        alexkern.models.alexnet(weights=VGG11_Weights.DEFAULT)
    asked = []
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda url, *_, **__: asked.append(url) or {})
    for weights in (AlexNet_Weights.IMAGENET1K_V1, AlexNet_Weights.DEFAULT):
        with pytest.raises(ValueError, match="wanted tensors by name"):
            alexkern.models.alexnet(weights=weights)
    assert asked == [weights.url] * 2
