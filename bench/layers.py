"""The layers of the three AlexNets, as their operators see them for 224 x 224 images (a layer's input is H x H)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from alexkern.geometry import Geometry

Modules = tuple[nn.Module, ...]
POOLED = ("conv1", "conv2", "conv5")  # the convolutions with a max-pooling behind them, in all three networks


@dataclass(frozen=True)
class Target:
    """Where the comparison runs, and in which dtype; tf32 multiplies float32 matrices of a GPU in TF32."""

    device: torch.device
    dtype: torch.dtype
    tf32: bool = False

    @property
    def arithmetic(self) -> str:
        """What is computed in: "float32", "tf32", "float16" or "bfloat16"."""
        return "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Within the block torch multiplies float32 matrices on a GPU as this target says."""
        if self.device.type != "cuda":
            yield
            return
        # The older settings: where the newer ones are used, reading the older raises, as exporters and compilers do.
        settings: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
        before = [setting.allow_tf32 for setting in settings]
        try:
            for setting in settings:
                setting.allow_tf32 = self.tf32
            yield
        finally:
            for setting, value in zip(settings, before, strict=True):
                setting.allow_tf32 = value

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)


@dataclass(frozen=True)
class Convolution:
    name: str
    C: int
    H: int
    K: int
    R: int  # the filter is R x R
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def P(self) -> int:
        """The output is P x P."""
        return self.geometry(1).P

    def geometry(self, batch: int) -> Geometry:
        pairs = (self.stride,) * 2, (self.padding,) * 2, (1, 1)
        return Geometry(batch, self.C, self.H, self.H, self.K, self.R, self.R, *pairs, self.groups)

    def inputs(self, batch: int, target: Target) -> tuple[Tensor, ...]:
        """input (N, C, H, W), weight (K, C / groups, R, R) scaled to keep the variance, bias (K)."""
        fan_in = self.C // self.groups * self.R**2
        weight = target.randn(self.K, self.C // self.groups, self.R, self.R) * (2 / fan_in) ** 0.5
        return target.randn(batch, self.C, self.H, self.H), weight, target.randn(self.K)

    def modules(self) -> Modules:
        sizes = (self.C, self.K, self.R, self.stride, self.padding)
        return nn.Conv2d(*sizes, groups=self.groups), nn.ReLU()


@dataclass(frozen=True)
class _OnImages:
    name: str
    C: int
    H: int

    def inputs(self, batch: int, target: Target) -> tuple[Tensor, ...]:
        """input (N, C, H, W)."""
        return (target.randn(batch, self.C, self.H, self.H),)


class Pooling(_OnImages):
    """A 3 x 3 window at stride 2."""

    def modules(self) -> Modules:
        return (nn.MaxPool2d(3, 2),)


@dataclass(frozen=True)
class Normalization(_OnImages):
    """The 2012 network's response normalisation over 5 channels; its alpha is torch's over the window's size."""

    size: int = 5
    alpha: float = 5e-4
    beta: float = 0.75
    k: float = 2.0

    def modules(self) -> Modules:
        return (nn.LocalResponseNorm(self.size, self.alpha, self.beta, self.k),)


@dataclass(frozen=True)
class Linear:
    name: str
    in_features: int
    out_features: int

    def inputs(self, batch: int, target: Target) -> tuple[Tensor, ...]:
        """input (N, in_features), weight (out_features, in_features), bias (out_features)."""
        weight = target.randn(self.out_features, self.in_features) * (2 / self.in_features) ** 0.5
        return target.randn(batch, self.in_features), weight, target.randn(self.out_features)

    def modules(self) -> Modules:
        return nn.Linear(self.in_features, self.out_features), nn.ReLU(), nn.Dropout()


@dataclass(frozen=True)
class Dropout:
    name: str
    features: int

    def inputs(self, batch: int, target: Target) -> tuple[Tensor, ...]:
        """input (N, features)."""
        return (target.randn(batch, self.features),)

    def modules(self) -> Modules:
        return (nn.Dropout(),)


@dataclass(frozen=True)
class Layers:
    convolutions: tuple[Convolution, ...]
    pooled: tuple[str, ...] = POOLED  # the convolutions whose ReLU the pooling follows at once
    normalizations: tuple[Normalization, ...] = ()
    linears: tuple[Linear, ...] = (Linear("fc6", 9216, 4096), Linear("fc7", 4096, 4096))
    dropouts: tuple[Dropout, ...] = (Dropout("before fc6", 9216), Dropout("before fc7", 4096))

    @property
    def pooled_convolutions(self) -> tuple[Convolution, ...]:
        return tuple(layer for layer in self.convolutions if layer.name in self.pooled)

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """The max-poolings, on the outputs of their convolutions."""
        return tuple(
            Pooling(layer.name.replace("conv", "pool"), layer.K, layer.P)
            for layer in self.convolutions
            if layer.name in POOLED
        )


def _convolutions(channels: tuple[int, ...], groups: tuple[int, ...] = (1, 1, 1, 1, 1)) -> tuple[Convolution, ...]:
    """With so many filters each; all three networks have their sizes, strides and paddings in common."""
    sizes = ((224, 11, 4, 2), (27, 5, 1, 2), (13, 3, 1, 1), (13, 3, 1, 1), (13, 3, 1, 1))
    every = zip((3, *channels), channels, sizes, groups, strict=False)
    return tuple(
        Convolution(f"conv{number}", C, H, K, R, stride, padding, shared)
        for number, (C, K, (H, R, stride, padding), shared) in enumerate(every, 1)
    )


PAPERS_DROPOUTS = (Dropout("before fc7", 4096), Dropout("before fc8", 4096))
ALEXNET = Layers(_convolutions((64, 192, 384, 256, 256)))
ALEXNET_2012 = Layers(
    _convolutions((96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2)),
    pooled=("conv5",),
    normalizations=(Normalization("norm1", 96, 55), Normalization("norm2", 256, 27)),
    dropouts=PAPERS_DROPOUTS,
)
ALEXNET_SINGLE_TOWER = Layers(_convolutions((96, 256, 384, 384, 256)), dropouts=PAPERS_DROPOUTS)

LAYERS = {"alexnet": ALEXNET, "alexnet_2012": ALEXNET_2012, "alexnet_single_tower": ALEXNET_SINGLE_TOWER}


@cache
def runs(layers: Layers) -> tuple[tuple[Any, Modules], ...]:
    """Every layer with the modules that it is, which have no memory, and with those of the pooling behind it too."""
    alone = (*layers.convolutions, *layers.poolings, *layers.normalizations, *layers.linears, *layers.dropouts)
    with torch.device("meta"):
        pooled = ((layer, (*layer.modules(), nn.MaxPool2d(3, 2))) for layer in layers.pooled_convolutions)
        return (*((layer, layer.modules()) for layer in alone), *pooled)
