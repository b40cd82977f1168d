"""Rows of every table: each variant of ours against the best of the others, and against the limit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alexkern.bench.comparison import Kind, Unit
from alexkern.bench.record import Entry, Measured


@dataclass(frozen=True)
class Row:
    """One of our variants in one comparison beside a peer, or a variant of any beside what it was in another record."""

    entry: Entry
    ours: Measured
    peer: Measured | None

    @property
    def what(self) -> str:
        return self.entry.what if self.ours == self.entry.ours[0] else f"  {self.ours.name}"

    @property
    def ratio(self) -> float | None:
        """Peer over ours: above 1, ours is faster, or smaller."""
        if self.ours.median is None or self.peer is None or self.peer.median is None:
            return None
        return self.peer.median / self.ours.median

    @property
    def difference(self) -> float | None:
        """Ours less the peer's, in the base unit."""
        return None if self.ratio is None else self.ours.median - self.peer.median  # type: ignore[operator, union-attr]

    @property
    def noisy(self) -> bool:
        """Whether the row decides nothing, for its samples are too few or too far apart. Counts are exact."""
        if self.ratio is None or self.peer is None or self.entry.kind is Kind.COUNT:
            return False
        return not self.ours.differs_from(self.peer)

    @property
    def kernel(self) -> str:
        """What ran, without the operator's name, which stands above; nothing where that is not known."""
        return (self.ours.kernel or "").replace(f"{self.entry.labels.get('operator')} ", "")

    @property
    def per_second(self) -> float | None:
        """Images, of a whole network."""
        return self.entry.images / self.ours.median if self.ours.median and self.entry.images else None

    @property
    def share(self) -> float | None:
        """Of the limit: the floor over our time."""
        return self.entry.floor / self.ours.median if self.ours.median and self.entry.floor else None

    @property
    def cells(self) -> tuple[str, ...]:
        """As every table shows it: ours, images a second, the peer's, its name, the ratio or difference, the share."""
        unit, peer, ratio = self.entry.unit, "", ""
        if self.peer and self.peer.median is not None:
            peer = number(self.peer.median, unit)
        if self.difference is not None:
            overhead = self.entry.kind is Kind.OVERHEAD
            ratio = number(self.difference, unit, sign="+") if overhead else f"{self.ratio:.2f}"
        return (
            number(self.ours.median, unit) if self.ours.median is not None else "failed",
            f"{self.per_second:,.0f}" if self.per_second else "",
            peer,
            self.peer.name if self.peer else "",
            ratio,
            f"{self.share:.0%}" if self.share else "",
        )


@dataclass(frozen=True)
class Absence:
    """A contender without a result: where, and why."""

    name: str
    reason: str
    groups: tuple[str, ...]

    @property
    def where(self) -> str:
        return self.groups[0] if len(self.groups) == 1 else f"{len(self.groups)} comparisons"


def rows(entries: Iterable[Entry]) -> list[Row]:
    """A row for each variant of ours that was asked for."""
    return [Row(entry, mine, entry.best_peer) for entry in entries for mine in entry.ours]


def absences(entries: Iterable[Entry]) -> list[Absence]:
    """Every failure, once for each contender and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        for variant in entry.variants:
            if variant.failure is not None:
                found.setdefault((variant.name, variant.failure), []).append(entry.group)
    return [Absence(name, reason, tuple(groups)) for (name, reason), groups in found.items()]


def verdicts(found: Sequence[Row]) -> list[str]:
    """For networks and for operators: who is ahead how often, by how much on the geometric mean, at best, at worst."""
    lines = []
    for kind in (Kind.NETWORK, Kind.OPERATOR):
        races = [(row, row.ratio) for row in found if row.entry.kind is kind and row.ratio is not None]
        if not races:
            continue
        level = sum(row.noisy for row, _ in races)
        ahead = sum(not row.noisy and ratio > 1 for row, ratio in races)
        mean = math.exp(sum(math.log(ratio) for _, ratio in races) / len(races))
        counts = f"ahead in {ahead}, behind in {len(races) - ahead - level}, level in {level} of {len(races)}"
        lines.append(f"{kind.value}: alexkern is {counts}; geometric mean ratio {mean:.2f}")
        (best, most), (worst, least) = max(races, key=lambda race: race[1]), min(races, key=lambda race: race[1])
        lines += [f"  fastest row: {_placed(best, most)}", f"  slowest row: {_placed(worst, least)}"]
    return lines


def _placed(row: Row, ratio: float) -> str:
    """A row away from its table."""
    doubt = " ~" if row.noisy else ""
    peer = row.peer.name if row.peer else ""
    return f"{ratio:.2f}{doubt} against {peer}, {row.ours.name} in {row.entry.group}"


def number(value: float, unit: Unit, sign: str = "") -> str:
    """Three digits that count, and the unit."""
    value *= unit.scale
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:{sign},.{digits}f} {unit.name}"
