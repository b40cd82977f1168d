"""What one comparison may take of a run's time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]

ALWAYS_S = 0.25  # rows that are judged in so little are, though the run is late
FEWEST_CALLS = 3  # of one peer: its check and two rounds


@dataclass(frozen=True)
class Budget:
    """What one comparison may take."""

    until: float = math.inf  # on the clock: what comes later belongs to the least of those waiting, itself included
    wanted: float = 0.0  # of measuring
    weight: float = 1.0  # what all the waiting comparisons want of measuring
    least: float = 0.0  # for it alone
    late: str = ""  # what is said of a peer that has no time
    clock: Clock = time.monotonic

    @property
    def spare(self) -> float:
        return max(0.0, self.until - self.clock())

    def affords(self, prepare_s: float, call_s: float) -> bool:
        """Whether there is time for one more peer whose calls take about so long."""
        return 2 * (prepare_s + FEWEST_CALLS * call_s) <= self.spare

    @property
    def measuring(self) -> float:
        """Seconds of more than the fewest rounds."""
        return self.wanted * self.spare / max(self.weight, self.spare) if self.spare < math.inf else self.wanted

    @property
    def enough(self) -> float:
        """Seconds for as many rounds as judge a row: what is left of its least, and of what is spare as much again."""
        return max(ALWAYS_S, min(self.until + self.least - self.clock(), 2 * self.least))


UNLIMITED = Budget()
