"""Records of benchmarks that nobody ran: the run's own comparisons, with results made up from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import torch

from alexkern.bench import (
    bench_alexnet,
    bench_conv2d_relu,
    bench_conv2d_relu_max_pool2d,
    bench_convnet_benchmarks,
    bench_max_pool2d,
    bench_memory,
)
from alexkern.bench.ceilings import Ceilings
from alexkern.bench.checks import check_close
from alexkern.bench.comparison import Comparison, Failure, Kind, Outcome, Trial, Variant
from alexkern.bench.layers import Target
from alexkern.bench.options import Options
from alexkern.bench.record import Entry, Record, entry
from alexkern.bench.work import Work, floor
from alexkern.measure.timing import Samples

CPU = Target(torch.device("cpu"), torch.float32)
HALF = Target(torch.device("cpu"), torch.bfloat16)
CEILINGS = Ceilings(flops=2e11, bytes=2e10)
MODULES = (
    bench_alexnet, bench_convnet_benchmarks, bench_conv2d_relu, bench_conv2d_relu_max_pool2d, bench_max_pool2d,
    bench_memory,
)  # fmt: skip


def options(**changes: object) -> Options:
    """Of a small run on a CPU, but for what is changed."""
    settings: dict[str, object] = dict(
        targets=(CPU,), models=("alexnet",), peers=("torch", "torch channels_last", "onnxruntime"), batches=(1, 16, 64),
        training_batches=(32,), operator_batch=8, compile_operators=False, clock="wall", seconds=60.0,
    )  # fmt: skip
    return Options(**settings | changes)  # type: ignore[arg-type]


def comparisons(of: Options) -> Iterable[Comparison]:
    """Everything that such a run compares of layers, networks and memory."""
    for module in MODULES:
        for name, function in vars(module).items():
            if name.startswith("bench_"):
                yield from function.comparisons(of)


def results(comparison: Comparison, slower: float = 1.0) -> dict[str, Outcome]:
    """Times of one and a half to five times the floor, or bytes; onnxruntime is not there."""
    found: dict[str, Outcome] = {}
    for variant in comparison.variants:
        if variant.name == "onnxruntime":
            found[variant.name] = Failure("not installed (pip install onnx)")
            continue
        rng = random.Random(f"{comparison.group} {variant.name}")
        least = 1e8 if comparison.kind is Kind.COUNT else floor(comparison.work, CEILINGS)
        median = least * rng.uniform(1.5, 2.5 if variant.ours else 5) * (slower if variant.ours else 1)
        found[variant.name] = Samples(tuple(median * (1 + 0.01 * step) for step in range(-2, 3)))
    return found


def entries(of: Options, slower: float = 1.0) -> tuple[Entry, ...]:
    return tuple(entry(comparison, results(comparison, slower), CEILINGS) for comparison in comparisons(of))


def record(slower: float = 1.0, machine: dict[str, object] | None = None, **changes: object) -> Record:
    """A whole record; `slower` is a factor of our times."""
    facts = {
        "date": "2026-05-01", "alexkern": "0.1.0", "commit": "0123456789ab", "torch": "2.13.0", "cpu": "A CPU & more",
        "cpu_capability": "AVX2", "cores": 2, "threads": 2, "load": "",
    }  # fmt: skip
    of = options(**changes)
    ceilings = {target.arithmetic: {"flops": CEILINGS.flops, "bytes": CEILINGS.bytes} for target in of.targets}
    return Record(facts | (machine or {}), ceilings, entries(of, slower), complete=True)


def comparison(
    kind: Kind = Kind.OPERATOR,
    section: str = "conv, batch 8",
    what: str = "conv1 forward",
    images: int | None = None,
    work: Work = (),
    **calls: Any,
) -> Comparison:
    """Of "alexkern" and further variants, whose calls return tensors that are checked against ones."""

    def check(name: str, result: Any) -> None:
        check_close([result], [torch.ones(3)])

    variants = tuple(Variant(name, ours=name.startswith("alexkern")) for name in calls)
    trial = Trial(calls.__getitem__, check)
    return Comparison(kind, section, what, variants, lambda: trial, 1.0, images, target=CPU, work=work)
