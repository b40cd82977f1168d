"""captum: attributions by gradients, by hooks on layers, and by rules of its own that replace ReLU's backward."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from support.clients import EVERY, TRAINED, Client, check, images, labels
from support.optional import need

attr = need("captum.attr")
pytestmark = pytest.mark.full


def whole(kind: str, **how: Any) -> Client:
    return lambda model: getattr(attr, kind)(model).attribute(images().requires_grad_(), target=labels(), **how)


def layer(kind: str, **how: Any) -> Client:
    def run(model: nn.Module) -> Any:
        return getattr(attr, kind)(model, model.get_submodule("features.3")).attribute(images(), target=labels(), **how)

    return run


BY_GRADIENT = {
    **{kind: whole(kind) for kind in ("Saliency", "DeepLift", "GuidedBackprop", "Deconvolution", "LRP")},
    "IntegratedGradients": whole("IntegratedGradients", n_steps=4),
    "DeepLiftShap": lambda model: attr.DeepLiftShap(model).attribute(images(), 0.5 * images(), target=labels()),
    **{kind: layer(kind) for kind in ("LayerGradCam", "GuidedGradCam", "LayerGradientXActivation", "LayerDeepLift")},
    "LayerConductance": layer("LayerConductance", n_steps=3),
}
FORWARD_ALONE = {
    "LayerActivation": lambda model: attr.LayerActivation(model, model.features[3]).attribute(images()),
    "Occlusion": whole("Occlusion", sliding_window_shapes=(3, 16, 16), strides=(3, 16, 16)),
}


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.filterwarnings("ignore")
def test_by_gradient(name: str) -> None:
    check(BY_GRADIENT[name], TRAINED)


@pytest.mark.parametrize("name", FORWARD_ALONE)
def test_by_the_forward_alone(name: str) -> None:
    check(FORWARD_ALONE[name], EVERY)
