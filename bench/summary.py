"""The closing table: who wins, by how much, and where the difference is lost in the noise."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexkern.bench.comparison import Comparison, Failure, Kind, Outcome, Unit
from alexkern.bench.timing import Samples

WIDTH = 100
COLUMNS = (
    ("what", 36, "left"),
    ("alexkern", 9, "right"),
    ("images/s", 8, "right"),
    ("best peer", 9, "right"),
    ("its name", 22, "left"),
    ("ratio", 8, "right"),
    ("", 1, "left"),
)


@dataclass(frozen=True)
class Row:
    """One of our variants against the best of the others."""

    kind: Kind
    section: str
    what: str
    unit: Unit
    ours: Samples | None
    peer: Samples | None
    peer_name: str
    per_second: float | None = None  # images, of a whole network

    @property
    def ratio(self) -> float | None:
        """Peer over ours: above 1, ours is faster, or smaller."""
        return self.peer.median / self.ours.median if self.ours and self.peer else None

    @property
    def noisy(self) -> bool:
        """Whether the spread exceeds the difference, so that the row decides nothing."""
        if self.ours is None or self.peer is None:
            return False
        spread = max(self.ours.spread, self.peer.spread)
        return spread > abs(self.ours.median - self.peer.median)


@dataclass(frozen=True)
class Absence:
    """A contender without a time: where, and why."""

    name: str
    reason: str
    groups: tuple[str, ...]


def rows(comparison: Comparison, outcomes: Mapping[str, Outcome]) -> list[Row]:
    """A row for each variant of ours that was asked for, against the fastest of the others."""
    times = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Samples)}
    ours = [variant.name for variant in comparison.variants if variant.ours and variant.name in outcomes]
    others = {variant.name: times[variant.name] for variant in comparison.variants if variant.name in times}
    peers = {name: samples for name, samples in others.items() if name not in ours}
    best = min(peers, key=lambda name: peers[name].median, default="")
    found = []
    for name in ours:
        mine = times.get(name)
        found.append(
            Row(
                kind=comparison.kind,
                section=comparison.section,
                what=comparison.what if name == ours[0] else f"  {name}",
                unit=comparison.unit,
                ours=mine,
                peer=peers.get(best),
                peer_name=best,
                per_second=comparison.images / mine.median if mine and comparison.images else None,
            )
        )
    return found


def absences(results: Iterable[tuple[Comparison, Mapping[str, Outcome]]]) -> list[Absence]:
    """Every failure, once for each contender and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for comparison, outcomes in results:
        for name, outcome in outcomes.items():
            if isinstance(outcome, Failure):
                found.setdefault((name, outcome.reason), []).append(comparison.group)
    return [Absence(name, reason, tuple(groups)) for (name, reason), groups in found.items()]


def verdicts(found: Sequence[Row]) -> list[str]:
    """For networks and for operators: who is ahead how often, and by how much on the geometric mean."""
    lines = []
    for kind in (Kind.NETWORK, Kind.OPERATOR):
        races = [(row, row.ratio) for row in found if row.kind is kind and row.ratio is not None]
        if not races:
            continue
        level = sum(row.noisy for row, _ in races)
        ahead = sum(not row.noisy and ratio > 1 for row, ratio in races)
        mean = math.exp(sum(math.log(ratio) for _, ratio in races) / len(races))
        counts = f"ahead in {ahead}, behind in {len(races) - ahead - level}, level in {level} of {len(races)}"
        lines.append(f"{kind.value}: alexkern is {counts}; geometric mean ratio {mean:.2f}")
    return lines


def render(results: Iterable[tuple[Comparison, Mapping[str, Outcome]]], footer: str, *, color: bool = False) -> str:
    """The table as text."""
    results = list(results)
    found = [row for comparison, outcomes in results for row in rows(comparison, outcomes)]
    output = io.StringIO()
    colors = "standard" if color else None
    console = Console(file=output, width=WIDTH, force_terminal=color, color_system=colors, highlight=False)
    console.print(_table([], header=True))
    for section, members in groupby(found, key=lambda row: row.section):
        console.print(f"\n[bold]{escape(section)}[/]")
        console.print(_table(members))
    console.print()
    for absence in absences(results):
        where = absence.groups[0] if len(absence.groups) == 1 else f"{len(absence.groups)} comparisons"
        console.print(f"not compared: [bold]{escape(absence.name)}[/] in {escape(where)}: {escape(absence.reason)}")
    for line in verdicts(found):
        console.print(f"[bold]{line}[/]")
    console.print("ratio: peer / alexkern, above 1 alexkern wins · ~: the spread (IQR) exceeds the difference")
    console.print(escape(footer))
    return output.getvalue()


def _table(members: Iterable[Row], header: bool = False) -> Table:
    """Rows in columns of fixed widths, so that the tables of all sections line up."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_header=header)
    for heading, width, justify in COLUMNS:
        table.add_column(heading, width=width, justify=justify)
    for row in members:
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    ratio = ""
    if row.ours and row.peer:
        difference = row.ours.median - row.peer.median
        if row.kind is Kind.OVERHEAD:
            ratio = _number(difference, row.unit, sign="+")
        else:
            style = "" if row.noisy else "[green]" if difference < 0 else "[red]"
            ratio = f"{style}{row.ratio:.2f}"
    return (
        f" {escape(row.what)}",
        _number(row.ours.median, row.unit) if row.ours else "failed",
        f"{row.per_second:,.0f}" if row.per_second else "",
        _number(row.peer.median, row.unit) if row.peer else "-",
        escape(row.peer_name),
        ratio,
        "~" if row.noisy else "",
    )


def _number(value: float, unit: Unit, sign: str = "") -> str:
    """Three digits that count, and the unit."""
    value *= unit.scale
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:{sign},.{digits}f} {unit.name}"
