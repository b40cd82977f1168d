"""What is compared, and how one comparison is carried out."""

from __future__ import annotations

import gc
import random
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, NamedTuple

import torch

from alexkern.backends import extension
from alexkern.bench.budget import UNLIMITED, Budget
from alexkern.bench.layers import Target
from alexkern.bench.work import Work
from alexkern.measure.timing import Call, Samples, Timer, measure


class Unit(NamedTuple):
    """How measurements in the base unit are shown."""

    name: str
    scale: float
    base: str


MS = Unit("ms", 1e3, "s")
US = Unit("us", 1e6, "s")
MB = Unit("MB", 1e-6, "bytes")


class Kind(Enum):
    """What is measured, and how it is judged."""

    NETWORK = "whole networks"
    OPERATOR = "operators"
    COUNT = "counts"  # the call's result is the measurement, not the time it takes
    OVERHEAD = "overheads"  # one variant is the work alone: what counts is the difference to it, not the ratio


@dataclass(frozen=True)
class Variant:
    """One way to compute the same thing."""

    name: str
    ours: bool = False
    missing: Callable[[], str | None] = lambda: None  # why it cannot run here, and what to install
    restless: bool = False  # its threads go on spinning after a call
    prepare_s: float = 0.0  # of preparing it, about


@dataclass(frozen=True)
class Trial:
    """A comparison with its inputs made: `prepare(name)` builds the call that is timed, `check(name, result)` raises
    WrongResult where the call's result is not the reference's."""

    prepare: Callable[[str], Call]
    check: Callable[[str, object], None]


@dataclass(frozen=True)
class Subject:
    """What a comparison is of."""

    kind: Kind
    section: str  # the heading under which the summary shows it
    what: str  # its row there

    @property
    def unit(self) -> Unit:
        """What its measurements are shown in."""
        return {Kind.COUNT: MB, Kind.OVERHEAD: US}.get(self.kind, MS)

    @property
    def group(self) -> str:
        return f"{self.section}, {self.what}"


@dataclass(frozen=True)
class Comparison(Subject):
    """Variants of one piece of work, timed against each other."""

    variants: tuple[Variant, ...]
    setup: Callable[[], Trial]
    seconds: float  # of measuring, where time allows
    images: int | None = None  # per call, of a whole network
    target: Target | None = None  # where it runs, and in what arithmetic, where the run has several
    work: Work = ()  # what the calls cannot do without
    labels: Mapping[str, str | int] = field(default_factory=dict)  # what the pictures find it by: model, layer, batch
    priority: int = 50  # comparisons of smaller ones come first
    least_s: float = 0.0  # of preparing it at the least, beside calls of known work, about
    every: bool = False  # whether all variants are measured, however short the time
    graphs: bool = True  # a GPU's latency may be that of a CUDA graph, where the calls can be captured

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)


@dataclass(frozen=True)
class Failure:
    """Why a variant has no time."""

    reason: str


Outcome = Samples | Failure


Source = Callable[[Any], Iterable[Comparison]]  # from the run's Options


def compares(source: Source, counts: bool = False) -> Callable[..., None]:
    """The test function of a bench_*.py for what it compares: a test for each variant of each comparison."""

    def measured(report: Callable[[], None]) -> None:
        report()

    def counted(count: Callable[[], None]) -> None:
        count()

    function = counted if counts else measured
    function.comparisons = source  # type: ignore[attr-defined]
    return function


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Runs torch's CPU operators on `number` threads within a `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(error: Exception) -> str:
    """The error in one line short enough for a table's row."""
    plain_text = re.sub("\x1b\\[[0-9;]*m", "", str(error))  # without colours
    lines = [line.strip() for line in plain_text.splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def prepare_checked(
    comparison: Comparison,
    names: Collection[str],
    budget: Budget = UNLIMITED,
    now: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, Call], dict[str, Failure], dict[str, float]]:
    """Builds the named variants and runs each once against the reference.

    Returns the calls fit to time, the failures, and how long the calls took by the clock `now`, but for those whose
    first call compiles.

    Ours and one peer always, of an operator all peers that need no preparing: torch's two formats, whose times are far
    apart. The others as the budget affords them, those first that are quickly prepared.
    """
    took: dict[str, float] = {}
    calls: dict[str, Call] = {}
    failures: dict[str, Failure] = {}
    # What earlier comparisons compiled would count against the limit of recompilations, and holds on to their networks.
    torch.compiler.reset()
    if comparison.kind is Kind.NETWORK:
        gc.collect()
    trial = comparison.setup()
    for variant in sorted(map(comparison.variant, names), key=lambda variant: (not variant.ours, variant.prepare_s)):
        name = variant.name
        missing = variant.missing()
        if missing is not None:
            failures[name] = Failure(missing)
            continue
        has_peer = any(not comparison.variant(other).ours for other in calls)
        always = (
            variant.ours
            or not has_peer
            or comparison.every
            or (comparison.kind is Kind.OPERATOR and not variant.prepare_s)
        )
        if not always and not budget.affords(variant.prepare_s, max(took.values(), default=0.0)):
            failures[name] = Failure(budget.late)
            continue
        try:
            with warnings.catch_warnings():
                if not variant.ours:  # what a peer's own libraries warn about is not for the reader of this comparison
                    warnings.simplefilter("ignore")
                call = trial.prepare(name)
                start = now()
                result = call()
                if not variant.prepare_s:
                    took[name] = now() - start
                trial.check(name, result)
            calls[name] = (lambda counted=result: counted) if comparison.kind is Kind.COUNT else call
        except Exception as error:
            failures[name] = Failure(describe(error))
    return calls, failures, took


def kernel_of(call: Call) -> str | None:
    """What a call of ours runs on the CPU, by csrc/cpu's names, or "torch"; None where nobody could tell."""
    native = extension.cpu.module
    if native is None:
        return None
    names: dict[str, None] = {}

    class Watched:
        """The module, each of whose functions says what it ran."""

        def __getattr__(self, name: str) -> Any:
            found = getattr(native, name)

            def watched(*arguments: Any) -> Any:
                native.forget_kernel()
                result = found(*arguments)
                names[native.last_kernel()] = None
                return result

            return watched if callable(found) else found

    extension.cpu.module = Watched()
    try:
        call()
    finally:
        extension.cpu.module = native
    return "; ".join(filter(None, names)) or "torch"


def compare(
    comparison: Comparison, names: Collection[str], timer: Timer, budget: Budget, rng: random.Random | None = None
) -> dict[str, Outcome]:
    """Carries out a comparison between the named variants."""
    with ExitStack() as within:
        if comparison.target:
            within.enter_context(comparison.target.precision())
        calls, failures, took = prepare_checked(comparison, names, budget, timer.now)
        if comparison.kind is Kind.COUNT:
            return {name: failures.get(name) or Samples((float(calls[name]()),)) for name in names}  # type: ignore[arg-type]
        if (
            comparison.kind is Kind.OVERHEAD
        ):  # waking a pool of threads costs more than the call that one is measured on
            within.enter_context(threads(1))
        restless = {name for name in calls if comparison.variant(name).restless}
        times = measure(calls, timer, budget.measuring, enough_s=budget.enough, took=took, restless=restless, rng=rng)
    outcomes: dict[str, Outcome] = dict(failures)
    on_cpu = comparison.kind is Kind.OPERATOR and comparison.target and comparison.target.device.type == "cpu"
    for name, result in times.items():
        if isinstance(result, Exception):
            outcomes[name] = Failure(describe(result))
        else:
            asked = on_cpu and comparison.variant(name).ours
            outcomes[name] = replace(result, kernel=kernel_of(calls[name])) if asked else result
    return {name: outcomes[name] for name in names}
