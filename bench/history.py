"""The row of convnet-benchmarks: AlexNet, batch 128, images of 224 x 224, as it was measured ten years ago.

That benchmark times forward and backward pass of the network of "One weird trick", without dropout, loss or update of
the parameters, and gives total, forward and backward in ms. Here forward (recording gradients) and forward+backward
are measured, and the backward is their difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from alexkern.bench import work
from alexkern.bench.checks import check_close, check_gradient_norms
from alexkern.bench.comparison import Comparison, Kind, Trial
from alexkern.bench.layers import LAYERS, Target
from alexkern.bench.networks import LEAST_S, build, contenders, handed_over, plain, variant
from alexkern.bench.options import Options
from alexkern.bench.peers import Peer
from alexkern.bench.priority import LATE, importance
from alexkern.bench.record import Record
from alexkern.measure.timing import Call

MODEL, BATCH = "alexnet", 128
SECTION = "convnet-benchmarks"
PASSES = ("forward", "forward+backward")
SECONDS = {"cpu": 20.0, "cuda": 1.0}


@dataclass(frozen=True)
class Figure:
    """Milliseconds, by whom, on what, and when that was published."""

    who: str
    device: str
    date: str
    total: float
    forward: float
    backward: float


# The README of github.com/soumith/convnet-benchmarks, whose last results are those of cuDNN R4.
HISTORY = (
    Figure("cuDNN R4, float16", "Titan X", "2016", 71, 25, 46),
    Figure("neon, float16", "Titan X", "2016", 78, 25, 52),
    Figure("cuda-convnet2", "Titan X", "2016", 177, 42, 135),
    Figure("Caffe", "Titan X", "2016", 324, 121, 203),
)


def convnet_benchmarks(options: Options) -> Iterable[Comparison]:
    """Forward, and forward and backward, in every arithmetic."""
    if MODEL not in options.models:
        return
    for target in options.targets:
        runners = [one for one in contenders(MODEL, options, target) if one.trains]
        for direction in PASSES:
            backward = direction != "forward"
            yield Comparison(
                kind=Kind.NETWORK,
                section=f"{SECTION}, {target.arithmetic}",
                what=f"{MODEL} {direction}, batch {BATCH}",
                variants=tuple(variant(runner, target) for runner in runners),
                setup=partial(_trial, backward, runners, target),
                seconds=SECONDS[target.device.type],
                least_s=LEAST_S[target.device.type],
                images=BATCH,
                target=target,
                work=work.network(LAYERS[MODEL], BATCH, target.dtype.itemsize, backward=backward),
                labels={"pass": f"convnet-benchmarks {direction}", "model": MODEL, "batch": BATCH},
                priority=importance(SECTION, options, target, MODEL) + (LATE if target.device.type == "cpu" else 0),
            )


def _trial(backward: bool, runners: Sequence[Peer], target: Target) -> Trial:
    network = build(MODEL, target).train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    images = target.randn(BATCH, 3, 224, 224)
    reference = plain(network)
    output = reference(images.float())
    grad = torch.randn_like(output).to(target.dtype)
    expected = [output.detach()]
    if backward:
        output.backward(grad.float())
        expected += [parameter.grad for parameter in reference.parameters() if parameter.grad is not None]

    def prepare(name: str) -> Call:
        contender, own = handed_over(name, runners, network)
        forward = contender.prepare(own.to(target.dtype), images)
        parameters = list(own.parameters())
        if not backward:
            return lambda: (forward(),)

        def both() -> tuple[Tensor, ...]:
            output = forward()
            return output, *torch.autograd.grad(output, parameters, grad)

        return both

    def check(name: str, result: object) -> None:
        output, *gradients = result  # type: ignore[misc]
        check_close([output.detach()], expected[:1])
        # By their norms: among values rounded to 16 bits, others win in the poolings.
        check_gradient_norms(gradients, expected[1:])

    return Trial(prepare, check)


def figures(record: Record) -> list[Figure]:
    """What a record has of it, for each arithmetic: ours, and the best peer over both passes; then the history."""
    found = []
    for arithmetic in dict.fromkeys(entry.arithmetic for entry in record.entries):
        passes = [record.select(arithmetic, {"pass": f"convnet-benchmarks {direction}"}) for direction in PASSES]
        forward, both = (next(iter(entries), None) for entries in passes)
        if forward is None or both is None:
            continue
        peer = both.best_peer
        for name in [one.name for one in both.ours] + ([peer.name] if peer else []):
            times = [one.median if (one := entry.variant(name)) else None for entry in (forward, both)]
            if times[0] and times[1]:
                first, total = (1e3 * seconds for seconds in times if seconds)
                found.append(Figure(f"{name}, {arithmetic}", record.device, record.date, total, first, total - first))
    return [*found, *HISTORY] if found else []
