"""Hands samples that were taken elsewhere to pytest-benchmark."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class ReplayClock:
    """A clock that stands still but for the sample being replayed.

    pytest-benchmark times one test after the other, so a machine that slows down in between would decide who wins. Here
    the first test of a comparison measures all its variants, interleaved, and each test then replays its own samples:
    this clock is the test's `timer`, and `benchmark.pedantic` calls `play` once a round, which advances it by one
    sample. Both are documented, and statistics, JSON, --benchmark-save, -compare and -group-by see nothing unusual.
    """

    __name__ = "alexkern.measure.timing.measure"  # what the JSON names as the timer

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def replay(self, benchmark: Any, samples: Iterable[float]) -> None:
        """Makes `samples` (seconds) the rounds of the fixture `benchmark`, whose timer is this clock."""
        pending = iter(tuple(samples))
        rounds = len(tuple(samples))

        def rewind() -> None:
            self._now = 0.0  # from zero the difference of two readings is the sample itself, without rounding

        def play() -> None:
            self._now = next(pending)

        benchmark.pedantic(play, setup=rewind, rounds=rounds)


replay_clock = ReplayClock()
