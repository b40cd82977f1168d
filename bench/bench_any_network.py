"""AlexNets as people write them: layers as attributes, with batch normalisation, and for images of 32 pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern.bench import ours
from alexkern.bench.comparison import Comparison, Kind, Trial, compares
from alexkern.bench.layers import Target
from alexkern.bench.networks import inference_trial, seconds, training_trial, variant
from alexkern.bench.options import Options
from alexkern.bench.peers.compile import Compile
from alexkern.bench.peers.eager import EAGER
from alexkern.bench.peers.peer import Peer
from alexkern.bench.priority import LATE

BATCH = {"cpu": 16, "cuda": 128}
CLASSES = 1000
Convolutions = tuple[tuple[int, int, int, int, bool], ...]
# Of torchvision's AlexNet: filters, their size, stride and padding, and whether a pooling follows.
CONVOLUTIONS: Convolutions = ((64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False),
                              (256, 3, 1, 1, False), (256, 3, 1, 1, True))  # fmt: skip
SMALL = ((64, 3, 2, 1, True), *((filters, 3, 1, 1, pools) for filters, *_, pools in CONVOLUTIONS[1:]))


class Attributes(nn.Module):
    """Layers that forward calls one by one, and functions between them: no Sequential."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for index, (filters, size, stride, padding, _) in enumerate(CONVOLUTIONS):
            self.add_module(f"conv{index}", nn.Conv2d(channels, filters, size, stride, padding))
            channels = filters
        self.fc0, self.fc1, self.fc2 = nn.Linear(9216, 4096), nn.Linear(4096, 4096), nn.Linear(4096, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        value = images
        for index, (*_, pools) in enumerate(CONVOLUTIONS):
            value = F.relu(getattr(self, f"conv{index}")(value))
            value = F.max_pool2d(value, 3, 2) if pools else value
        value = value.reshape(value.shape[0], -1)
        for layer in (self.fc0, self.fc1):
            value = F.dropout(F.relu(layer(value)), 0.5, self.training)
        return self.fc2(value)


def classifier(features: int) -> list[nn.Module]:
    hidden = [nn.Linear(features, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(True)]
    return [nn.Flatten(), nn.Dropout(), *hidden, nn.Linear(4096, CLASSES)]


def of_sequentials(convolutions: Convolutions, window: int, norms: bool, features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for filters, size, stride, padding, pools in convolutions:
        layers += [nn.Conv2d(channels, filters, size, stride, padding)]
        layers += [nn.BatchNorm2d(filters), nn.ReLU(True)] if norms else [nn.ReLU(True)]
        layers += [nn.MaxPool2d(window, 2)] if pools else []
        channels = filters
    return nn.Sequential(*layers, *classifier(features))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "layers as attributes": (Attributes, 224),
    "batch normalisation": (partial(of_sequentials, CONVOLUTIONS, 3, True, 9216), 224),
    "32 pixels": (partial(of_sequentials, SMALL, 2, False, 1024), 32),
}


def any_network(options: Options) -> Iterable[Comparison]:
    """The forward pass and a training step, as torch runs them, by inductor, by our backend, and frozen."""
    target = options.target
    batch = BATCH[target.device.type]
    by_us = Compile('torch.compile, backend="alexkern"', backend="alexkern", ours=True)
    runners: list[Peer] = [by_us, ours.Frozen(), *EAGER, Compile("torch.compile")]
    for name, trains in ((name, trains) for name in NETWORKS for trains in (False, True)):
        taking_part = [runner for runner in runners if runner.trains or not trains]
        yield Comparison(
            kind=Kind.NETWORK,
            section="networks of any style",
            what=f"{name} {'training step' if trains else 'inference'}, batch {batch}",
            variants=tuple(variant(runner, target, passes=1 + trains) for runner in taking_part),
            setup=partial(_trial, name, batch, taking_part, target, trains),
            seconds=seconds(target, batch),
            images=batch,
            target=target,
            priority=LATE,
        )


def _trial(name: str, batch: int, runners: list[Peer], target: Target, trains: bool) -> Trial:
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    with torch.device(target.device):
        network = build()
    images = target.randn(batch, 3, size, size)
    return (training_trial if trains else inference_trial)(network, images, runners, target)


bench_any_network = compares(any_network)
