"""opacus: gradients of every sample alone, by hooks, by torch.func and by expanded weights, and a private step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from support.clients import TRAINED, check, images, labels
from support.optional import need

opacus = need("opacus")
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
def test_gradients_of_every_sample(mode: str) -> None:
    def run(model: nn.Module) -> list[Any]:
        wrapped = opacus.grad_sample.get_gsm_class(mode)(model.train())
        nn.functional.cross_entropy(wrapped(images()), labels(), reduction="sum").backward()
        return [parameter.grad_sample for parameter in model.parameters()]

    check(run, TRAINED)


def test_a_private_step() -> None:
    def run(model: nn.Module) -> list[Any]:
        loader = DataLoader(TensorDataset(images(4), labels(4)), batch_size=4)
        private, optimizer, loader = opacus.PrivacyEngine().make_private(
            module=model.train(), optimizer=torch.optim.SGD(model.parameters(), lr=0.1), data_loader=loader,
            noise_multiplier=0.0, max_grad_norm=1.0, poisson_sampling=False,
        )  # fmt: skip
        for batch, wanted in loader:
            nn.functional.cross_entropy(private(batch), wanted).backward()
            optimizer.step()
        return list(model.parameters())

    check(run, TRAINED)
