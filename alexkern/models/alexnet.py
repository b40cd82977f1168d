"""The three AlexNets, each built of torch's own layers in a `FusedSequential`, which is what makes them fast.

[1] A. Krizhevsky, I. Sutskever, G. Hinton: ImageNet classification with deep convolutional neural networks, NIPS 2012.
[2] A. Krizhevsky: One weird trick for parallelizing convolutional neural networks, arXiv 1404.5997, 2014.

The spatial sizes beside the layers are those of a 224 x 224 image; any size from 63 x 63 works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from alexkern.models.transforms import ImageClassification
from alexkern.models.weights import WeightsLike, check_weights, read_weights
from alexkern.nn import FusedSequential, passes_on

Network = TypeVar("Network", bound="AlexNet")


class AlexNet(nn.Module):
    """torchvision's AlexNet, module for module: the network of [2], 64-192-384-256-256 channels, 61,100,840 parameters.

    Input (N, 3, H, W) floating point, H and W at least 63; output (N, num_classes) logits.

    `classes` holds the class names where they are known, else None.
    """

    name = "alexnet"

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        if not hasattr(num_classes, "__index__") or num_classes < 1:
            raise ValueError(f"{self.name}: num_classes must be an integer of at least 1, got {num_classes!r}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"{self.name}: dropout must be a probability between 0 and 1, got {dropout!r}")
        self.features = self._build_features()
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = self._build_classifier(num_classes, dropout)
        self.classes: tuple[str, ...] | None = None
        self.preprocessing = ImageClassification()

    @staticmethod
    def _build_features() -> FusedSequential:
        return _tower((64, 192, 384, 256, 256))

    @staticmethod
    def _build_classifier(num_classes: int, dropout: float) -> FusedSequential:
        return FusedSequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) to logits (N, num_classes)."""
        x = self.features(x)
        if not passes_on(self.avgpool, x):
            x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.classifier(x)

    def transforms(self) -> ImageClassification:
        """The preprocessing for inference: ImageNet's, or that of the weights file."""
        return self.preprocessing


class AlexNetSingleTower(AlexNet):
    """The layers of [1] in one tower: 96-256-384-384-256 channels, no groups, no LRN; 62,378,344 parameters.

    Input (N, 3, H, W) floating point, H and W at least 63; output (N, num_classes) logits.
    """

    name = "alexnet_single_tower"

    @staticmethod
    def _build_features() -> FusedSequential:
        return _tower((96, 256, 384, 384, 256))

    @staticmethod
    def _build_classifier(num_classes: int, dropout: float) -> FusedSequential:
        # [1], section 4.2, drops outputs of the hidden layers; torchvision drops their inputs.
        return FusedSequential(
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )


class AlexNet2012(AlexNet):
    """The network of [1], section 3: two towers (groups=2 in conv2, conv4, conv5) and LRN; 60,965,224 parameters.

    Input (N, 3, H, W) floating point, H and W at least 63; output (N, num_classes) logits. Weights are drawn as in
    section 5: standard deviation 0.01, biases 1 in conv2, conv4, conv5 and the hidden linear layers, else 0.
    """

    name = "alexnet_2012"

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__(num_classes, dropout)
        parameters = list(self.parameters())
        for weight, bias, value in zip(parameters[::2], parameters[1::2], (0, 1, 0, 1, 1, 1, 1, 0), strict=True):
            nn.init.normal_(weight, std=0.01)
            nn.init.constant_(bias, value)

    @staticmethod
    def _build_features() -> FusedSequential:
        return _tower((96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2), normalised=True)

    _build_classifier = staticmethod(AlexNetSingleTower._build_classifier)


def _tower(
    channels: Sequence[int], groups: Sequence[int] = (1, 1, 1, 1, 1), normalised: bool = False
) -> FusedSequential:
    """Five convolutions, with the poolings that all three networks have, and local response normalisation or not."""

    def block(number: int, size: int, stride: int = 1, padding: int = 0) -> tuple[nn.Module, ...]:
        sizes = ((3, *channels)[number - 1], channels[number - 1], size, stride, padding)
        return nn.Conv2d(*sizes, groups=groups[number - 1]), nn.ReLU(inplace=True)

    def norm() -> tuple[nn.Module, ...]:
        # [1], section 3.3: k 2, n 5, alpha 1e-4, beta 0.75. torch divides alpha by n, the paper does not.
        return (nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0),) if normalised else ()

    return FusedSequential(
        *block(1, size=11, stride=4, padding=2),  # 55 x 55
        *norm(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 27 x 27
        *block(2, size=5, padding=2),  # 27 x 27
        *norm(),
        nn.MaxPool2d(kernel_size=3, stride=2),  # 13 x 13
        *block(3, size=3, padding=1),  # 13 x 13
        *block(4, size=3, padding=1),  # 13 x 13
        *block(5, size=3, padding=1),  # 13 x 13
        nn.MaxPool2d(kernel_size=3, stride=2),  # 6 x 6
    )


def alexnet(
    pretrained: bool | WeightsLike | None = False,
    *,
    weights: WeightsLike | None = None,
    progress: bool = True,
    num_classes: int = 1000,
    dropout: float = 0.5,
) -> AlexNet:
    """torchvision's AlexNet [2]: 61,100,840 parameters, and torchvision's state_dict loads unchanged.

    `weights` is a .safetensors or .pth file, or "IMAGENET1K_V1" or "DEFAULT" for torchvision's ImageNet weights, which
    are downloaded once (`progress` shows it) and checked; None draws them at random. `num_classes` must be the file's.
    `pretrained` is torchvision's older name of `weights`: True for "DEFAULT", False for None.

    Raises ValueError or FileNotFoundError where the weights cannot be had or are of another network (TypeError where
    they are another network's enum).
    """
    return _build(AlexNet, pretrained, weights, progress, num_classes, dropout)


def alexnet_2012(
    pretrained: bool | WeightsLike | None = False,
    *,
    weights: WeightsLike | None = None,
    progress: bool = True,
    num_classes: int = 1000,
    dropout: float = 0.5,
) -> AlexNet2012:
    """The network of the 2012 paper [1], groups and local response normalisation included: 60,965,224 parameters.

    `weights` is a .safetensors or .pth file; None draws them as the paper does. `num_classes` must be the file's.

    Raises ValueError or FileNotFoundError where the weights cannot be had or are of another network.
    """
    return _build(AlexNet2012, pretrained, weights, progress, num_classes, dropout)


def alexnet_single_tower(
    pretrained: bool | WeightsLike | None = False,
    *,
    weights: WeightsLike | None = None,
    progress: bool = True,
    num_classes: int = 1000,
    dropout: float = 0.5,
) -> AlexNetSingleTower:
    """The 2012 paper's layers without groups and without LRN [1]: 62,378,344 parameters.

    `weights` is a .safetensors or .pth file; None draws them at random. `num_classes` must be the file's.

    Raises ValueError or FileNotFoundError where the weights cannot be had or are of another network.
    """
    return _build(AlexNetSingleTower, pretrained, weights, progress, num_classes, dropout)


MODELS: dict[str, Callable[..., AlexNet]] = {
    "alexnet": alexnet,
    "alexnet_2012": alexnet_2012,
    "alexnet_single_tower": alexnet_single_tower,
}


def _build(
    network: type[Network],
    pretrained: bool | WeightsLike | None,
    weights: WeightsLike | None,
    progress: bool,
    num_classes: int,
    dropout: float,
) -> Network:
    if pretrained is not None and pretrained is not False:
        if weights is not None:
            raise TypeError(f"{network.name}: wanted weights or pretrained, torchvision's older name, got both")
        weights = "DEFAULT" if pretrained is True else pretrained
    if weights is None:
        return network(num_classes, dropout)
    read = read_weights(weights, model=network.name, progress=progress)
    # On meta nothing is drawn at random that the file would overwrite, nor allocated for one that misfits.
    device = torch.get_default_device()
    with torch.device("meta"):
        model = network(num_classes, dropout)
    check_weights(model, read)
    model.to_empty(device=device)
    model.load_state_dict(read.state_dict)
    model.classes = read.classes
    model.preprocessing = read.transforms or model.preprocessing
    return model
