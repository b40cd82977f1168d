"""lpips: a distance by the features of AlexNet and VGG, of which it takes slices; here with weights drawn at random."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alexkern
from support.optional import need

lpips = need("lpips")
pytestmark = pytest.mark.full


def distance(net: str) -> nn.Module:
    torch.manual_seed(0)
    return lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).eval()


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, 2, 3, 64, 64, generator=generator)
    return one.requires_grad_(), other


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_distances_and_their_gradients(net: str) -> None:
    results: list[Any] = []
    for way in (copy.deepcopy, alexkern.fuse):
        one, other = pair()
        total, layers = way(distance(net))(one, other, retPerLayer=True)
        results.append([total, layers, torch.autograd.grad(total.sum(), one)])
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-6)


def test_a_frozen_distance() -> None:
    with torch.no_grad():
        want = distance("alex")(*pair(), retPerLayer=True)
        torch.testing.assert_close(
            alexkern.freeze(distance("alex"))(*pair(), retPerLayer=True), want, rtol=1e-3, atol=1e-6
        )


def test_our_network_in_place_of_torchvision_s(monkeypatch: pytest.MonkeyPatch) -> None:
    want = distance("alex")
    monkeypatch.setattr("lpips.pretrained_networks.tv.alexnet", alexkern.models.alexnet)
    ours = distance("alex")
    assert type(ours.net.slice1[0]) is nn.Conv2d
    ours.load_state_dict(want.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(*pair()), want(*pair()), rtol=1e-3, atol=1e-6)
