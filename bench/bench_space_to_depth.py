"""The first layer with its re-layout: images as they come, by the frozen model's one pass of cast, normalisation and
space to depth in front of the product. Without a GPU nothing is measured.

Beside it stand torch's own operators, which normalise, cast and convolve in turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern import dispatch
from alexkern.augmentation import IMAGENET_MEAN as MEAN
from alexkern.augmentation import IMAGENET_STD as STD
from alexkern.bench.checks import check_close
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, compares
from alexkern.bench.layers import LAYERS, Convolution, Target
from alexkern.bench.operators import CUDNN, LEAST_S, SECONDS, TORCH, laid_out
from alexkern.bench.options import Options
from alexkern.bench.ours import served_by
from alexkern.bench.priority import importance
from alexkern.bench.work import Work, layer_work
from alexkern.measure.timing import Call

WHY_NOT = dispatch.missing("cuda", "conv2d_relu", "cuda", torch.bfloat16)


@dataclass(frozen=True)
class Source:
    """Images as they come: of the target's dtype, if no other is given."""

    name: str
    layout: torch.memory_format
    dtype: torch.dtype | None = None

    def images(self, batch: int, layer: Convolution, target: Target) -> Tensor:
        shape = (batch, layer.C, layer.H, layer.H)
        if self.dtype == torch.uint8:
            drawn = torch.randint(256, shape, dtype=torch.uint8, device=target.device)
        else:
            drawn = torch.randn(shape, device=target.device).to(self.dtype or target.dtype)
        return laid_out(drawn, self.layout)


SOURCES = (
    Source("the target's NHWC", torch.channels_last),
    Source("uint8 NHWC", torch.channels_last, torch.uint8),
    Source("float32 NCHW", torch.contiguous_format, torch.float32),
)


def first_layers(options: Options) -> Iterable[Comparison]:
    batch, model = options.operator_batch, "alexnet"
    layer = LAYERS[model].convolutions[0]
    for target in options.targets:
        if target.device.type != "cuda" or target.dtype.itemsize != 2:
            continue
        for source in SOURCES:
            name = source.name.replace("the target's", target.arithmetic)
            yield Comparison(
                kind=Kind.OPERATOR,
                section=f"first layer with its re-layout, {model}, {target.arithmetic}, batch {batch}",
                what=f"{layer.name} from {name}",
                variants=(Variant("alexkern cuda", ours=True), *map(Variant, (*TORCH, CUDNN))),
                setup=partial(_trial, source, layer, batch, target),
                seconds=SECONDS[target.device.type],
                least_s=LEAST_S[target.device.type],
                target=target,
                work=_work(source, layer, batch, target),
                priority=importance("operator", options, target, model),
            )


def _work(source: Source, layer: Convolution, batch: int, target: Target) -> Work:
    """The layer's, with the images' own bytes."""
    (part,) = layer_work("conv2d_relu", layer, batch, target.dtype.itemsize, backward=False)
    narrower = (source.dtype or target.dtype).itemsize - target.dtype.itemsize
    return (replace(part, bytes=part.bytes + narrower * batch * layer.C * layer.H**2),)


def _trial(source: Source, layer: Convolution, batch: int, target: Target) -> Trial:
    images = source.images(batch, layer, target)
    _, weight, bias = layer.inputs(0, target)
    mean, std = (torch.tensor(row, device=target.device).view(-1, 1, 1) for row in (MEAN, STD))

    def normalised() -> Tensor:
        values = (images.float() / 255 - mean) / std if source.dtype == torch.uint8 else images
        return values.to(target.dtype)

    expected = F.relu(F.conv2d(normalised().float(), weight.float(), bias.float(), layer.stride, layer.padding))

    def prepare(name: str) -> Call:
        if name == "alexkern cuda":
            convolution = nn.Conv2d(layer.C, layer.K, layer.R, layer.stride, layer.padding)
            convolution.weight, convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
            channels_last = nn.Sequential(convolution, nn.ReLU()).to(memory_format=torch.channels_last)
            frozen = alexkern.freeze(channels_last, mean=MEAN, std=STD)
            return served_by("cuda", lambda: (frozen(images),))
        layout = TORCH.get(name, torch.channels_last)
        filters = laid_out(weight, layout)
        if name == CUDNN:
            pairs = (layer.stride,) * 2, (layer.padding,) * 2, (1, 1)
            return lambda: (
                torch.cudnn_convolution_relu(normalised().contiguous(memory_format=layout), filters, bias, *pairs, 1),
            )
        return lambda: (
            F.relu(F.conv2d(normalised().contiguous(memory_format=layout), filters, bias, layer.stride, layer.padding)),
        )

    def check(name: str, result: object) -> None:
        check_close([tensor.detach() for tensor in result], [expected])  # type: ignore[attr-defined]

    return Trial(prepare, check)


bench_space_to_depth = pytest.mark.skipif(WHY_NOT is not None, reason=f"not measured: {WHY_NOT}")(
    compares(first_layers)
)
