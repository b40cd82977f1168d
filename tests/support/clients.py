"""What the tests of other people's packages share: one small network in the four ways in which a user has it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import alexkern
from alexkern.nn import FusedSequential

Client = Callable[[nn.Module], Any]


class Network(nn.Module):
    """torchvision's way to write an AlexNet or a VGG: features, classifier, and a forward that flattens."""

    def __init__(self, sequential: type[nn.Sequential] = nn.Sequential) -> None:
        super().__init__()
        self.features = sequential(
            *(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = sequential(
            *(nn.Dropout(0.0), nn.Linear(16 * 3 * 3, 32), nn.ReLU()),
            *(nn.Dropout(0.0), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


# Each makes of the plain network one that has to behave as it does; a snapshot has no gradients.
TRAINED: dict[str, Client] = {
    "ours": lambda plain: _as(FusedSequential, plain),
    "fused": lambda plain: alexkern.fuse(copy.deepcopy(plain)),
}
EVERY: dict[str, Client] = TRAINED | {"frozen": lambda plain: alexkern.freeze(plain)}


def _as(sequential: type[nn.Sequential], plain: nn.Module) -> nn.Module:
    network = Network(sequential).train(plain.training)
    network.load_state_dict(plain.state_dict())
    return network


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(2012))


def labels(batch: int = 2) -> Tensor:
    return torch.arange(batch) + 1


def check(client: Client, ways: dict[str, Client] = EVERY, network: Callable[[], nn.Module] = Network) -> None:
    """What a client makes of the network in each of the ways is what it makes of the plain one."""
    torch.manual_seed(0)
    plain = network().eval()
    torch.manual_seed(1)
    wanted = list(_flat(client(copy.deepcopy(plain))))
    assert wanted, "the client has to return what is compared"
    for name, way in ways.items():
        model = way(plain)
        torch.manual_seed(1)
        got = list(_flat(client(model)))
        assert len(got) == len(wanted), name
        for one, other in zip(got, wanted, strict=True):
            if isinstance(other, Tensor):
                assert isinstance(one, Tensor), name
                limit = 1e-4 * other.abs().max().item() if other.numel() else 0.0
                torch.testing.assert_close(
                    one, other, rtol=1e-4, atol=limit, msg=lambda text, name=name: f"{name}: {text}"
                )
            else:
                assert one == other, name


def _flat(result: Any) -> Iterator[Any]:
    """Every leaf, in order; tensors detached, dense and whole."""
    if isinstance(result, Tensor):
        yield result.detach()
    elif isinstance(result, dict):
        for key in result:
            yield from _flat((key, result[key]))
    elif isinstance(result, (list, tuple)) or hasattr(result, "__next__"):
        for part in result:
            yield from _flat(part)
    elif hasattr(result, "__array__"):
        yield torch.as_tensor(result)
    else:
        yield result
