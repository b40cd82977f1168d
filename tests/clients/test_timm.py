"""timm: its VGG, whose features are a Sequential with taps, its moving average, and its groups of parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import alexkern
from support.clients import TRAINED, check
from support.optional import need

timm = need("timm")
optim, utils = need("timm.optim"), need("timm.utils")
pytestmark = pytest.mark.full
WAYS = TRAINED | {"frozen": alexkern.freeze}
del WAYS["ours"]


def images() -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["vgg11", "vgg11_bn"])
@pytest.mark.parametrize("features_only", [False, True])
def test_models(name: str, features_only: bool) -> None:
    def run(model: nn.Module) -> object:
        with torch.no_grad():
            if features_only:
                return list(model(images()))
            return model(images()), model.forward_features(images()), model.forward_intermediates(images())[1]

    build = (lambda: timm.create_model(name, features_only=True)) if features_only else (lambda: tiny(name))
    check(run, WAYS, build)


def tiny(name: str) -> nn.Module:
    """Without the 100 million parameters of its head."""
    model = timm.create_model(name, num_classes=0)
    model.pre_logits = nn.Identity()
    model.head = nn.Flatten()
    return model


def test_moving_average_and_groups() -> None:
    def run(model: nn.Module) -> object:
        average = utils.ModelEmaV3(model, decay=0.5)
        for parameter in model.parameters():
            parameter.data.add_(1)
        average.update(model)
        groups = optim.create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.1).param_groups
        return list(average.module.state_dict().values()), [len(group["params"]) for group in groups]

    check(run, TRAINED)
