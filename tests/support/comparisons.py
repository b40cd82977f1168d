"""Every comparison of the bench, as lines of text: section and row, kind, seconds wanted and at the least, priority,
images, GFLOP and MB, labels, and the variants, of which ours (!), restless (~), and the seconds to prepare it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from unittest import mock

import torch

from alexkern.bench.comparison import Variant
from alexkern.bench.layers import Target
from alexkern.bench.options import Options
from alexkern.bench.peers import PEERS
from alexkern.bench.work import total
from alexkern.ops.registry import OPERATORS
from alexkern.tools.worst import comparisons

# But of the operators, and of the layers, a few stand for all.
OTHERS = {"conv3", "conv4", *OPERATORS} - {"conv2d_relu", "conv2d_relu_max_pool2d", "dropout"}


def contender(variant: Variant) -> str:
    seconds = f" {variant.prepare_s:g}" if variant.prepare_s else ""
    return f"{'!' * variant.ours}{variant.name}{'~' * variant.restless}{seconds}"


def options(device: str, *dtypes: torch.dtype) -> Options:
    """Of two arithmetics; batches that matter, and one that does not."""
    targets = tuple(
        Target(torch.device(device), dtype, dtype == torch.float32 and device == "cuda") for dtype in dtypes
    )
    batches = (1, 3, 16) if device == "cpu" else (2, 128)
    return Options(
        targets=targets, models=("alexnet", "alexnet_2012"), peers=tuple(peer.name for peer in PEERS), batches=batches,
        training_batches=(batches[-1], 64), operator_batch=8, compile_operators=device == "cpu", clock="wall",
        seconds=100.0,
    )  # fmt: skip


def lines() -> Iterator[str]:
    """On a CPU, and on a GPU whose backends are all there."""
    for of in (options("cpu", torch.float32, torch.bfloat16), options("cuda", torch.bfloat16, torch.float32)):
        with (
            mock.patch("alexkern.dispatch.missing", lambda name, *_: "on a GPU" if name == "cpu" else None),
            mock.patch("os.cpu_count", lambda: 4),
        ):
            every = [one for one in comparisons(of) if not {*re.findall(r"\w+", one.group)} & OTHERS]
        for one in every:
            work = total(one.work)
            told = [one.kind.name, f"{one.seconds:g}, {one.least_s:g}", str(one.priority), str(one.images or "")]
            told += [f"{work.flops * 1e-9:.6g}, {work.bytes * 1e-6:.6g}", " ".join(map(str, one.labels.values()))]
            told += [", ".join(map(contender, one.variants))]
            told += ["every"] * one.every + ["no graphs"] * (not one.graphs)
            yield f"{one.group}: {'; '.join(told)}"
