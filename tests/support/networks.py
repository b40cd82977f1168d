"""Small networks with everything that FusedSequential looks at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def small_alexnet() -> nn.Sequential:
    """AlexNet's modules in AlexNet's order, with few channels: 3x63x63 images, 10 classes."""
    return nn.Sequential(
        nn.Sequential(
            nn.Conv2d(3, 8, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 12, 5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(5, alpha=5e-4, k=2.0),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(12, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 8, 3, padding=1, bias=False),
            nn.ReLU(),
        ),
        nn.AdaptiveAvgPool2d((3, 3)),
        nn.Flatten(),
        nn.Sequential(
            nn.Dropout(0.3),
            nn.Linear(72, 32),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(32, 24),
            nn.ReLU(inplace=True),
            nn.Linear(24, 10),
        ),
    )


def vgg() -> nn.Sequential:
    """VGG-16's blocks at a sixteenth of its width, for 32x32 images."""
    layers: list[nn.Module] = []
    channels = 3
    for width, depth in ((4, 2), (8, 2), (16, 3), (32, 3), (32, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True), nn.Dropout())
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), head, nn.Linear(16, 5))


class View(nn.Module):
    """What a hand-written network does between features and classifier: needs contiguous memory."""

    def forward(self, input: Tensor) -> Tensor:
        return input.view(input.shape[0], -1)


class Residual(nn.Module):
    """Sequentials inside a module inside a Sequential."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(input + self.body(input))


def nested() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Sequential(nn.MaxPool2d(3, 2), nn.Dropout(0.2))),
        Residual(6),
        nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), View(), nn.Linear(4 * 3 * 3, 5), nn.ReLU()),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "alexnet": (small_alexnet, (2, 3, 63, 63)),
    "vgg": (vgg, (2, 3, 32, 32)),
    "nested": (nested, (2, 3, 13, 13)),
}
