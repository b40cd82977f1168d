"""How a run shares out its time: no row is left out however short it is, and more time brings peers and rounds."""

from __future__ import annotations

import dataclasses
import itertools
from unittest import mock

import pytest

from alexkern.bench import session
from alexkern.bench.budget import ALWAYS_S, UNLIMITED, Budget
from alexkern.bench.ceilings import Ceilings
from alexkern.bench.comparison import Comparison, Failure, Kind, Trial, Variant, prepare_checked
from alexkern.bench.priority import LATE
from alexkern.bench.schedule import Schedule, least
from alexkern.bench.session import Run
from alexkern.bench.work import Part
from alexkern.measure.timing import CERTAIN_S, ENOUGH, Samples
from support.bench_records import CEILINGS, CPU, HALF, options
from support.fake_time import FakeTime

TIMES = {"alexkern": 1.0, "torch": 1.2, "torch channels_last": 1.1, "torch.compile": 0.9}  # of what a call's work takes
COMPILE_S = 10.0
# Kind, work of a call (seconds by the ceilings), seconds of measuring asked for, priority.
NETWORKS = [(Kind.NETWORK, work, 15.0, 0) for work in (0.02, 0.2, 0.5, 2.0)]
OPERATORS = [(Kind.OPERATOR, work, 1.0, 3) for work in (0.0005, 0.02, 0.04, 0.08) * 5]
LAST = [(Kind.NETWORK, 3.0, 20.0, LATE)]


@pytest.fixture(autouse=True)
def nothing_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compiler.reset", lambda: None)
    monkeypatch.setattr("gc.collect", lambda: None)


def compared(time: FakeTime, number: int, kind: Kind, work: float, seconds: float, priority: int) -> Comparison:
    """On the fake clock: inputs take 0.1 s, compiling takes 10, and every call takes its time."""

    def prepare(name: str):
        time.seconds += COMPILE_S if name == "torch.compile" else 0.0
        return time.work(name, TIMES[name] * work)

    def setup() -> Trial:
        time.seconds += 0.1
        return Trial(prepare, lambda name, result: None)

    names = [name for name in TIMES if kind is Kind.NETWORK or name != "torch.compile"]
    return Comparison(
        kind, "section", f"row {number}",
        tuple(Variant(n, n == "alexkern", prepare_s=COMPILE_S if n == "torch.compile" else 0.0) for n in names),
        setup, seconds, target=CPU, work=(Part(work * CEILINGS.flops, 0.0),), priority=priority, least_s=0.1,
    )  # fmt: skip


def ran(seconds: float) -> tuple[Run, float]:
    """A run of all of them, in order, and the seconds that it took."""
    time = FakeTime()
    run = Run(options(seconds=seconds), clock=time.now)
    run.ceilings["float32"] = CEILINGS
    for number, row in enumerate((*NETWORKS, *OPERATORS, *LAST)):
        subject = compared(time, number, *row)
        run.comparisons[subject.group] = subject
        run.selected[subject.group] = [variant.name for variant in subject.variants]
    with mock.patch.object(session, "timer_for", lambda device, clock, graphs: time.timer()):
        for group, names in run.selected.items():
            for name in names:
                run.outcome(group, name)
    return run, time.seconds


@pytest.mark.parametrize("seconds", [0.0, 1.0, 20.0, 60.0, 100.0, 200.0, 1000.0])
def test_no_row_is_left_out_however_short_the_time(seconds):
    run, took = ran(seconds)
    assert len(run.entries) == len(run.comparisons)
    for group, outcomes in run.outcomes.items():
        assert outcomes.keys() == set(run.selected[group])
        for name in ("alexkern", "torch"):
            assert isinstance(outcomes[name], Samples) and len(outcomes[name].seconds) >= 2
        for outcome in outcomes.values():
            assert isinstance(outcome, Samples) or outcome == Failure(f"time was nearly up (--seconds={seconds:g})")
        if run.comparisons[group].what == "row 4":  # whose calls take half a millisecond
            assert len(outcomes["alexkern"].seconds) >= ENOUGH
    shortest = ran(0.0)[1]
    assert took <= max(seconds, shortest) + 5.0


def test_more_time_brings_more_peers_and_more_rounds():
    runs = [ran(seconds)[0] for seconds in (0.0, 100.0, 200.0, 1000.0)]
    found = [[o for outcomes in run.outcomes.values() for o in outcomes.values()] for run in runs]
    peers = [sum(isinstance(outcome, Samples) for outcome in outcomes) for outcomes in found]
    rounds = [sum(len(outcome.seconds) for outcome in outcomes if isinstance(outcome, Samples)) for outcomes in found]
    for fewer, more in itertools.pairwise(zip(peers, rounds, strict=True)):
        assert fewer[0] < more[0] and fewer[1] < more[1]
    least = [3 if one.kind is Kind.OPERATOR else 2 for one in runs[0].comparisons.values()]  # both of torch's formats
    assert peers[0] == sum(least) and peers[-1] == len(found[-1])
    assert all(len(outcome.seconds) >= ENOUGH for outcome in found[-1] if outcome.median < CERTAIN_S)
    for group, outcomes in runs[2].outcomes.items():  # a run that keeps to its time
        assert len(outcomes["alexkern"].seconds) >= ENOUGH or runs[2].comparisons[group].kind is not Kind.OPERATOR


def test_where_no_call_was_timed_a_peer_is_judged_by_its_preparation():
    seconds = {"alexkern": 1.0, "a": 2.0, "b": 3.0}
    variants = tuple(Variant(name, name == "alexkern", prepare_s=prepare) for name, prepare in seconds.items())
    trial = Trial(lambda name: lambda: None, lambda name, result: None)
    budget = mock.Mock(affords=mock.Mock(return_value=False), late="late")
    comparison = Comparison(Kind.NETWORK, "section", "row", variants, lambda: trial, 1.0)
    calls, failures, _ = prepare_checked(comparison, ["b", "a", "alexkern"], budget, FakeTime().now)
    assert [*calls] == ["alexkern", "a"] and failures == {"b": Failure("late")}
    budget.affords.assert_called_once_with(3.0, 0.0)


def test_a_peer_is_judged_by_the_longest_call_too():
    time, takes = FakeTime(), {"alexkern": 0.5, "a": 2.0, "b": 0.1}

    def prepare(name):
        return lambda: setattr(time, "seconds", time.seconds + takes[name])

    variants = tuple(Variant(name, name == "alexkern", prepare_s=3.0 if name == "b" else 0.0) for name in takes)
    budget = mock.Mock(affords=mock.Mock(return_value=True))
    trial = Trial(prepare, lambda name, result: None)
    comparison = Comparison(Kind.NETWORK, "section", "row", variants, lambda: trial, 1.0)
    calls, failures, _ = prepare_checked(comparison, [*takes], budget, time.now)
    assert [*calls] == ["alexkern", "a", "b"] and failures == {}
    budget.affords.assert_called_once_with(3.0, 2.0)


def test_a_peer_is_prepared_where_twice_its_time_is_spare():
    time = FakeTime()
    subject = compared(time, 0, *NETWORKS[0])
    waiting = [subject, compared(time, 1, *NETWORKS[2])]
    reserved = sum(least(one, {"float32": CEILINGS}) for one in waiting)
    for spare, affords in ((19.9, False), (20.1, True)):
        budget = Schedule(reserved + spare, time.now).budget(subject, waiting, {"float32": CEILINGS})
        assert budget.affords(COMPILE_S, 0.0) is affords
        time.seconds += 10.0
        assert not budget.affords(COMPILE_S, 0.0) and budget.affords(2.0, 0.5)
        time.seconds += 20.0
        assert (budget.spare, budget.measuring) == (0.0, 0.0) and ALWAYS_S <= budget.enough <= 2 * budget.least
        time.seconds += 1e3
        assert budget.enough == ALWAYS_S
        time.seconds = 0.0


@pytest.mark.parametrize(
    ("seconds", "kind", "calls"),
    [
        (0.03, Kind.NETWORK, 28), (0.035, Kind.NETWORK, 14), (0.2, Kind.NETWORK, 14), (0.21, Kind.NETWORK, 4),
        (9.0, Kind.NETWORK, 4), (0.03, Kind.OPERATOR, 42), (0.2, Kind.OPERATOR, 21), (9.0, Kind.OPERATOR, 6),
    ],
)  # fmt: skip
def test_what_a_comparison_takes_at_least(seconds, kind, calls):
    """Of calls that reach seven tenths of the limit: few of long ones; and two in float32, here twice as long."""
    work = (Part(seconds * CEILINGS.flops, 0.0),)
    half = Ceilings(CEILINGS.flops / 2, CEILINGS.bytes)
    subject = Comparison(kind, "section", "row", (), Trial, 1.0, target=HALF, work=work, least_s=0.5)
    found = least(subject, {"bfloat16": CEILINGS, "float32": half})
    assert found == pytest.approx(0.5 + (calls + 2 * 2) * seconds / 0.7)
    assert least(subject, {"bfloat16": CEILINGS}) == pytest.approx(0.5 + (calls + 2) * seconds / 0.7)
    for changes in ({"target": None}, {"work": ()}):
        assert least(dataclasses.replace(subject, **changes), {}) == 0.5


def test_a_budget_meets_its_bounds():
    clock = FakeTime()
    budget = Budget(until=10.0, wanted=6.0, weight=24.0, least=2.0, clock=clock.now)
    assert (budget.spare, budget.measuring, budget.enough) == (10.0, 2.5, 4.0)
    assert budget.affords(2.0, 1.0) and budget.affords(5.0, 0.0) and not budget.affords(2.0, 1.01)
    clock.seconds = 9.0
    assert (budget.spare, budget.measuring, budget.enough) == (1.0, 0.25, 3.0)
    clock.seconds = 13.0
    assert (budget.spare, budget.measuring, budget.enough) == (0.0, 0.0, 0.25)
    wide = dataclasses.replace(budget, until=40.0, clock=lambda: 0.0)
    assert (wide.measuring, wide.enough) == (6.0, 4.0)  # no more than is wanted, and twice its least
    assert UNLIMITED.affords(1e9, 1e9) and UNLIMITED.measuring == 0.0
    assert dataclasses.replace(UNLIMITED, wanted=3.0).measuring == 3.0


def test_the_last_of_all_takes_nothing_from_the_others():
    clock = FakeTime()
    others = [
        dataclasses.replace(compared(clock, number, *NETWORKS[0]), priority=priority, seconds=seconds, work=())
        for number, (priority, seconds) in enumerate(((1, 2.0), (LATE - 1, 3.0), (LATE, 5.0), (LATE + 4, 7.0)))
    ]
    schedule = Schedule(100.0, clock.now)
    budgets = [schedule.budget(one, others, {}) for one in others]
    assert [budget.weight for budget in budgets] == [5.0, 5.0, 10.0, 17.0]
    assert {budget.until for budget in budgets} == {100.0 - 4 * 0.1} and budgets[0].wanted == 2.0
    assert budgets[0].late == "time was nearly up (--seconds=100)" and budgets[0].least == 0.1
