"""What changed between two records: `alexkern bench --compare A B`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexkern.bench.comparison import Kind
from alexkern.bench.machine import describe_machine
from alexkern.bench.record import Entry, Measured, Record
from alexkern.bench.rows import number

WIDTH = 110


@dataclass(frozen=True)
class Change:
    """One variant of one comparison in both records."""

    entry: Entry
    before: Measured
    after: Measured

    @property
    def ratio(self) -> float | None:
        """Before over after: above 1 it became faster, or smaller."""
        if self.before.median is None or self.after.median is None:
            return None
        return self.before.median / self.after.median

    @property
    def noisy(self) -> bool:
        """Whether the samples do not decide it. Counts are exact."""
        if self.ratio is None or self.entry.kind is Kind.COUNT:
            return False
        return not self.after.differs_from(self.before)


def changes(before: Record, after: Record) -> Iterator[Change]:
    """What both records have, in the order of the second."""
    old = {entry.group: entry for entry in before.entries}
    for entry in after.entries:
        if entry.group in old:
            for variant in entry.variants:
                was = old[entry.group].variant(variant.name)
                if was is not None:
                    yield Change(entry, was, variant)


def render(before: Record, after: Record, *, color: bool = False) -> str:
    """The table as text: ours and peers, because what made both faster is the machine and not our work."""
    found = list(changes(before, after))
    output = io.StringIO()
    console = Console(
        file=output,
        width=WIDTH,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )
    for name, record in (("before", before), ("after", after)):
        console.print(f"{name}: {escape(describe_machine(record.machine))}")
    for section, members in groupby(found, key=lambda change: change.entry.section):
        console.print(f"\n[bold]{escape(section)}[/]")
        console.print(_table(list(members)))
    for side, one, other in (("before", before, after), ("after", after, before)):
        alone = {entry.group for entry in one.entries} - {entry.group for entry in other.entries}
        if alone:
            console.print(f"only {side}: {len(alone)} comparisons")
    decided = [change.ratio for change in found if change.entry.ours and change.after.ours and not change.noisy]
    ratios = [ratio for ratio in decided if ratio is not None]
    faster = sum(ratio > 1 for ratio in ratios)
    console.print(f"[bold]alexkern: {faster} better, {len(ratios) - faster} worse[/], the others within their spread")
    console.print("ratio: before / after, above 1 is better · ~: the samples do not decide it")
    return output.getvalue()


def _table(members: list[Change]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=False)
    for width, justify in ((40, "left"), (28, "left"), (10, "right"), (10, "right"), (7, "right"), (1, "left")):
        table.add_column(width=width, justify=justify)  # type: ignore[arg-type]
    for change in members:
        unit = change.entry.unit
        values = [
            number(one.median, unit) if one.median is not None else "failed" for one in (change.before, change.after)
        ]
        style = "" if change.noisy or change.ratio is None else "[green]" if change.ratio > 1 else "[red]"
        ratio = f"{style}{change.ratio:.2f}" if change.ratio is not None else ""
        name = escape(change.after.name)
        table.add_row(f" {escape(change.entry.what)}", name, *values, ratio, "~" if change.noisy else "")
    return table
