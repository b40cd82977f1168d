"""Round numbers along an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence


def round_steps(largest: float, about: int = 5) -> list[float]:
    """0 and further multiples of 1, 2 or 5 times a power of ten, up to the first one that is not below `largest`."""
    raw = largest / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [index * step for index in range(math.ceil(largest / step - 1e-9) + 1)]


def decades(values: Sequence[float]) -> list[float]:
    """The powers of ten and their 2 and 5 fold that lie around and between `values`."""
    low, high = min(values), max(values)
    steps = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
    ]
    first = max(step for step in steps if step <= low)
    last = min((step for step in steps if step >= high), default=steps[-1])
    return [step for step in steps if first <= step <= last]
