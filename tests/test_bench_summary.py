"""What is said about a comparison: who wins, by how much, whether that means anything, and how far the limit is."""

from __future__ import annotations

import numpy as np
import pytest

from alexkern.bench import record
from alexkern.bench.comparison import Failure, Kind
from alexkern.bench.rows import rows, verdicts
from alexkern.bench.work import Part
from alexkern.measure.timing import Samples
from support.bench_records import CEILINGS, comparison


def entry(subject, *, ceilings=CEILINGS, **seconds):
    """The comparison's entry, each variant with its samples."""
    found = {name: taken if isinstance(taken, Failure) else Samples(taken) for name, taken in seconds.items()}
    return record.entry(subject, found, ceilings)


def steady(median, count=7):
    """So many samples of nearly the same."""
    return tuple(median * (1 + 1e-4 * number) for number in range(-(count // 2), count - count // 2))


def noisy(ours, peer):
    (row,) = rows([entry(comparison(alexkern=None, torch=None), alexkern=tuple(ours), torch=tuple(peer))])
    return row.noisy


def test_a_row_whose_quartiles_overlap_is_flagged():
    still, near, wild = np.linspace(1.0, 1.05, 6), np.linspace(1.2, 1.25, 6), (0.5, 0.8, 1.0, 1.4, 2.0, 3.0)
    for ours, peer, flagged in ((still, near, False), (still, wild, True), (wild, near, True), (still, still, True)):
        assert noisy(ours, peer) is noisy(peer, ours) is flagged
    (row,) = rows([entry(comparison(alexkern=None, torch=None), alexkern=tuple(still), torch=tuple(near))])
    assert row.ratio == pytest.approx(1.225 / 1.025)


@pytest.mark.parametrize("count", range(1, 8))
def test_under_five_rounds_decide_nothing(count):
    assert noisy(steady(1.0, count), steady(9.0, 50)) is noisy(steady(9.0, 50), steady(1.0, count)) is (count < 5)


@pytest.mark.parametrize("count", [5, 6, 7, 8, 15])
@pytest.mark.parametrize("levels", [2, 3, 100])
def test_one_outlier_makes_no_win(count, levels):
    """A row that decides something does so whichever sample is left out, by numpy's quartiles of the others."""
    rng = np.random.default_rng(count * levels)
    decided = 0
    for _ in range(60):
        sides = rng.integers(1, 1 + levels, size=(2, count)).astype(float)
        sides[1] += rng.integers(0, levels)
        side, place = rng.integers(2), rng.integers(count)
        sides[side, place] = rng.choice([1e-3, 1e3, sides[side, place]])
        if noisy(*sides):
            continue
        decided += 1
        verdicts_without = set()
        for side in (0, 1):
            for place in range(count):
                one, other = np.delete(sides[side], place), sides[1 - side]
                ours, peer = (one, other) if side == 0 else (other, one)
                apart = (
                    np.quantile(ours, 0.75) < np.quantile(peer, 0.25),
                    np.quantile(peer, 0.75) < np.quantile(ours, 0.25),
                )
                verdicts_without.add(apart)
        assert verdicts_without in ({(True, False)}, {(False, True)}), sides
    assert decided


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("outlier", [0.0, 0.5, 2.0, 1e3])
def test_an_outlier_neither_decides_a_level_row_nor_hides_a_clear_one(place, outlier):
    samples = np.array(steady(1.0, 6))
    samples[place] = outlier
    assert noisy(samples, steady(1.0)) and noisy(steady(1.0), samples)
    assert not noisy(samples, steady(1.5)) and not noisy(steady(0.5), samples)


def test_each_variant_of_ours_meets_the_best_of_the_others():
    variants = {"alexkern": steady(0.5), "alexkern frozen": steady(0.25), "slow": steady(2.0), "fast": steady(1.0)}
    subject = comparison(kind=Kind.NETWORK, images=16, **dict.fromkeys(variants))
    found = rows([entry(subject, **variants)])
    assert [row.ratio for row in found] == pytest.approx([2.0, 4.0])
    assert [row.per_second for row in found] == pytest.approx([32.0, 64.0])
    assert [row.peer.name for row in found] == ["fast", "fast"]
    assert verdicts(found) == [
        "whole networks: alexkern is ahead in 2, behind in 0, level in 0 of 2; geometric mean ratio 2.83",
        "  fastest row: 4.00 against fast, alexkern frozen in conv, batch 8, conv1 forward",
        "  slowest row: 2.00 against fast, alexkern in conv, batch 8, conv1 forward",
    ]


def test_the_slowest_row_is_named_though_it_decides_nothing():
    calls = {"alexkern": None, "torch": None}
    times = {"conv1": (1.0, 6), "conv2": (3.0, 6), "conv3": (4.0, 3), "conv4": (2.0, 6)}
    found = rows(
        [entry(comparison(what=what, **calls), alexkern=steady(*of), torch=steady(2.0)) for what, of in times.items()]
    )
    assert verdicts(found) == [
        "operators: alexkern is ahead in 1, behind in 1, level in 2 of 4; geometric mean ratio 0.90",
        "  fastest row: 2.00 against torch, alexkern in conv, batch 8, conv1",
        "  slowest row: 0.50 ~ against torch, alexkern in conv, batch 8, conv3",
    ]


def test_the_share_is_that_of_the_sum_of_the_parts_floors():
    # At 2e11 FLOP/s and 2e10 bytes/s: 1 s of computing beats 0.5 s of moving, then 2 s of moving.
    work = (Part(2e11, 1e10), Part(2e10, 4e10))
    (row,) = rows([entry(comparison(work=work, alexkern=None, torch=None), alexkern=(6.0,), torch=(7.0,))])
    assert row.share == pytest.approx(0.5)
    (row,) = rows([entry(comparison(alexkern=None, torch=None), alexkern=(6.0,), torch=(7.0,))])
    assert row.share is None
