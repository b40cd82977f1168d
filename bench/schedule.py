"""How a run shares out its time: every comparison gets its least, and what is spare goes to the important ones first.

The time that is left, less what all the waiting comparisons take at the least by this run's ceilings, is spare. Peers
join where twice their time is spare, so that what comes behind finds some as well, and the rest goes into more rounds.
Where nothing is spare, each comparison still has ours, one peer and the fewest rounds: a run that is late leaves no row
out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from alexkern.bench.budget import Budget, Clock
from alexkern.bench.comparison import Comparison, Kind
from alexkern.bench.priority import LATE
from alexkern.bench.work import Ceilings, floor
from alexkern.measure.timing import LONG_S

TYPICAL_SHARE = 0.7  # of the limit, that calls reach
FEW_S = 0.3  # of a call that gets but the fewest rounds at the least, where shorter ones get ENOUGH
# At the least, of ours and one peer: short calls, with warm ones before them; long ones; those of FEW_S.
CALLS, LONG_CALLS, LONGEST_CALLS = 28, 14, 4
REFERENCE_CALLS = 2  # in float32


class Schedule:
    """A run's time, from now on."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def budget(self, comparison: Comparison, waiting: Iterable[Comparison], ceilings: Mapping[str, Ceilings]) -> Budget:
        """Of a comparison that is one of those `waiting`."""
        waiting = list(waiting)
        # What comes last of all gets what is left, and takes nothing from the others.
        last = max(LATE, comparison.priority + 1)
        return Budget(
            until=self._end - sum(least(other, ceilings) for other in waiting),
            wanted=comparison.seconds,
            weight=sum(other.seconds for other in waiting if other.priority < last),
            least=least(comparison, ceilings),
            late=f"time was nearly up (--seconds={self._seconds:g})",
            clock=self._clock,
        )


def least(comparison: Comparison, ceilings: Mapping[str, Ceilings]) -> float:
    """The seconds that it takes at least, about."""
    if not comparison.target or not comparison.work:
        return comparison.least_s
    own = ceilings[comparison.target.arithmetic]
    call = floor(comparison.work, own) / TYPICAL_SHARE
    calls = CALLS if call < LONG_S else LONG_CALLS if call < FEW_S else LONGEST_CALLS
    calls *= 1.5 if comparison.kind is Kind.OPERATOR else 1.0  # which has two peers
    reference = floor(comparison.work, ceilings.get("float32", own)) / TYPICAL_SHARE
    return comparison.least_s + calls * call + REFERENCE_CALLS * reference
