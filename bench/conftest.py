"""The comparison as pytest runs it: options, one test per variant, one measurement per comparison, one closing table.

A bench_*.py decorates a function with `compares`; every variant of every comparison becomes a test of it and an entry
of pytest-benchmark, whose options all go on working. --benchmark-disable checks the variants without timing them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from alexkern.bench.comparison import Comparison, Failure, Kind, Outcome, compare, prepare_checked
from alexkern.bench.machine import describe_load, describe_machine, machine_facts
from alexkern.bench.options import Options, add_options
from alexkern.bench.replay import replay_clock
from alexkern.bench.summary import render
from alexkern.bench.timing import Samples, timer_for


class Run:
    """One run: its comparisons in order, and what came out of each."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.comparisons: dict[str, Comparison] = {}  # by group
        self.selected: dict[str, list[str]] = {}  # by group: the variants that pytest's options leave in
        self.outcomes: dict[str, dict[str, Outcome]] = {}  # by group
        self.late: set[str] = set()  # the groups that time ran out for
        self.load = describe_load()
        self._end = time.monotonic() + options.seconds

    def outcome(self, group: str, variant: str) -> Outcome:
        """A variant's outcome; the first one asked for measures its whole comparison."""
        if group not in self.outcomes:
            comparison = self.comparisons[group]
            left = self._end - time.monotonic()
            if left <= 0:
                self.late.add(group)
                return Failure(f"time was up (--seconds={self.options.seconds:g})")
            wanted = sum(self.comparisons[other].seconds for other in self.selected if other not in self.outcomes)
            budget = comparison.seconds * left / max(wanted, left)  # less for all where time runs short
            # An overhead is the host's time, wherever the tensors are.
            device = torch.device("cpu") if comparison.kind is Kind.OVERHEAD else self.options.target.device
            timer = timer_for(device, self.options.clock)
            self.outcomes[group] = compare(comparison, self.selected[group], timer, budget, random.Random(group))
        return self.outcomes[group][variant]


RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser.getgroup("comparison", "what alexkern is compared with, and on what"))


def pytest_configure(config: pytest.Config) -> None:
    run = config.stash[RUN] = Run(Options.read(config))
    if run.options.clock == "cpu":
        torch.set_num_threads(1)  # several would count their waiting for each other
    torch.backends.cudnn.benchmark = True  # torch at its best
    # pytest-benchmark's own table has a row for every variant: it appears beside ours when its options are used.
    if not any(str(argument).startswith("--benchmark") for argument in config.invocation_params.args):
        config.option.benchmark_quiet = True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    source = getattr(metafunc.function, "comparisons", None)
    if source is None:
        return
    run = metafunc.config.stash[RUN]
    cases = []
    for comparison in source(run.options):
        run.comparisons[comparison.group] = comparison
        marks = pytest.mark.benchmark(group=comparison.group, timer=replay_clock)
        cases += [
            pytest.param(comparison.what, variant.name, marks=marks, id=f"{comparison.what}-{variant.name}")
            for variant in comparison.variants
        ]
    metafunc.parametrize(("what", "variant"), cases)


def pytest_collection_finish(session: pytest.Session) -> None:
    run = session.config.stash[RUN]
    for item in session.items:
        if _group(item) in run.comparisons:
            run.selected.setdefault(_group(item), []).append(item.callspec.params["variant"])  # type: ignore[attr-defined]


def _group(item: Any) -> str:
    marker = item.get_closest_marker("benchmark")
    return marker.kwargs.get("group", "") if marker else ""


@pytest.fixture
def report(request: pytest.FixtureRequest, what: str, variant: str, benchmark: Any) -> Callable[[], None]:
    """Times this test's variant, against those it is compared with, and reports it to pytest-benchmark."""
    run = request.config.stash[RUN]
    comparison = run.comparisons[_group(request.node)]

    def report() -> None:
        if benchmark.disabled:
            _, failures = benchmark.pedantic(prepare_checked, args=(comparison, [variant]))
            _succeeded(run, comparison, variant, failures.get(variant))
            return
        outcome = run.outcome(comparison.group, variant)
        _succeeded(run, comparison, variant, outcome)
        benchmark.extra_info.update(section=comparison.section, what=what, variant=variant, images=comparison.images)
        replay_clock.replay(benchmark, outcome.seconds)

    return report


@pytest.fixture
def count(request: pytest.FixtureRequest, what: str, variant: str) -> Callable[[], None]:
    """Reports a count in place of a time: no entry of pytest-benchmark, but one of `counts` in its JSON."""
    run = request.config.stash[RUN]
    comparison = run.comparisons[_group(request.node)]

    def count() -> None:
        _succeeded(run, comparison, variant, run.outcome(comparison.group, variant))

    return count


def _succeeded(run: Run, comparison: Comparison, variant: str, outcome: Outcome | None) -> None:
    """A variant of ours that failed fails the run; a peer that failed is skipped, and a line of the summary."""
    if isinstance(outcome, Failure):
        if comparison.variant(variant).ours and comparison.group not in run.late:
            pytest.fail(f"{variant}: {outcome.reason}", pytrace=False)
        pytest.skip(f"{variant}: {outcome.reason}")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    run = config.stash[RUN]
    if not run.outcomes and not run.late:
        return
    results = [(run.comparisons[group], outcomes) for group, outcomes in run.outcomes.items()]
    terminalreporter.write_sep("=", "who wins, by how much")
    footer = [describe_machine(run.options.target)]
    if run.options.clock == "cpu":
        footer.append("CPU time on one thread")
    elif run.load:
        footer.append(run.load)
    if run.late:
        footer.append(f"comparisons left out because time was up (--seconds={run.options.seconds:g}): {len(run.late)}")
    terminalreporter.write(render(results, "\n".join(footer), color=config.get_terminal_writer().hasmarkup))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["alexkern"] = machine_facts(config.stash[RUN].options.target)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    run = config.stash[RUN]
    output_json["counts"] = [
        {"group": group, "variant": variant, "count": outcome.median, "unit": run.comparisons[group].unit.base}
        for group, outcomes in run.outcomes.items()
        if run.comparisons[group].kind is Kind.COUNT
        for variant, outcome in outcomes.items()
        if isinstance(outcome, Samples)
    ]
