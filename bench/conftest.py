"""The comparison as pytest runs it: options, one test per variant, one measurement per comparison, one closing table.

A bench_*.py makes its test function by `compares`; every variant of every comparison becomes a test of it and an entry
of pytest-benchmark, whose options all go on working. --benchmark-disable checks the variants without timing them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import alexkern
from alexkern.bench.comparison import Comparison, Failure, Kind, Outcome, prepare_checked
from alexkern.bench.machine import machine_facts
from alexkern.bench.options import Options, add_options
from alexkern.bench.replay import replay_clock
from alexkern.bench.session import Run
from alexkern.bench.storage import make_no_empty_folder
from alexkern.measure.timing import Samples

RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser.getgroup("comparison", "what alexkern is compared with, and on what"))


def pytest_report_header() -> list[str]:
    return alexkern.info().head


def pytest_configure(config: pytest.Config) -> None:
    make_no_empty_folder(config)
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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The most important comparisons first, each with all its variants together."""
    comparisons = config.stash[RUN].comparisons
    places = {group: (comparison.priority, place) for place, (group, comparison) in enumerate(comparisons.items())}
    items.sort(key=lambda item: places.get(_group(item), (0, 0)))


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
            _, failures, _ = benchmark.pedantic(prepare_checked, args=(comparison, [variant]))
            _succeeded(comparison, variant, failures.get(variant))
            return
        outcome = run.outcome(comparison.group, variant)
        _succeeded(comparison, variant, outcome)
        benchmark.extra_info.update(section=comparison.section, what=what, variant=variant, images=comparison.images)
        replay_clock.replay(benchmark, outcome.seconds)

    return report


@pytest.fixture
def count(request: pytest.FixtureRequest, what: str, variant: str) -> Callable[[], None]:
    """Reports a count in place of a time: no entry of pytest-benchmark, but one of `counts` in its JSON."""
    run = request.config.stash[RUN]
    comparison = run.comparisons[_group(request.node)]

    def count() -> None:
        _succeeded(comparison, variant, run.outcome(comparison.group, variant))

    return count


def _succeeded(comparison: Comparison, variant: str, outcome: Outcome | None) -> None:
    """A variant of ours that failed fails the run; a peer that failed is skipped, and a line of the summary."""
    if isinstance(outcome, Failure):
        if comparison.variant(variant).ours:
            pytest.fail(f"{variant}: {outcome.reason}", pytrace=False)
        pytest.skip(f"{variant}: {outcome.reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    run = session.config.stash[RUN]
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        run.finish()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    run = config.stash[RUN]
    if run.outcomes:
        terminalreporter.write_sep("=", "who wins, by how much")
        terminalreporter.write(run.summary(color=config.get_terminal_writer().hasmarkup))


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
