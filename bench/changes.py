"""What changed between two records: `alexkern bench --compare A B`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from alexkern.bench.machine import describe_machine
from alexkern.bench.record import Record
from alexkern.bench.rows import Row
from alexkern.bench.summary import grid, paper

WIDTH = 110
COLUMNS = (("", 40, "left"), ("", 28, "left"), ("", 10, "right"), ("", 10, "right"), ("", 7, "right"), ("", 1, "left"))


def changes(before: Record, after: Record) -> Iterator[Row]:
    """What both records have, in the order of the second: as it is there, and in place of a peer what it was."""
    old = {entry.group: entry for entry in before.entries}
    for entry in after.entries:
        if entry.group in old:
            for variant in entry.variants:
                was = old[entry.group].variant(variant.name)
                if was is not None:
                    yield Row(entry, variant, was)


def render(before: Record, after: Record, *, color: bool = False) -> str:
    """The table as text: ours and peers, because what made both faster is the machine and not our work."""
    found = list(changes(before, after))
    console = paper(WIDTH, color)
    for name, record in (("before", before), ("after", after)):
        console.print(f"{name}: {escape(describe_machine(record.machine))}")
    for section, members in groupby(found, key=lambda change: change.entry.section):
        console.print(f"\n[bold]{escape(section)}[/]")
        console.print(_table(members))
    for side, one, other in (("before", before, after), ("after", after, before)):
        alone = {entry.group for entry in one.entries} - {entry.group for entry in other.entries}
        if alone:
            console.print(f"only {side}: {len(alone)} comparisons")
    decided = [change.ratio for change in found if change.ours.ours and not change.noisy]
    ratios = [ratio for ratio in decided if ratio is not None]
    faster = sum(ratio > 1 for ratio in ratios)
    console.print(f"[bold]alexkern: {faster} better, {len(ratios) - faster} worse[/], the others within their spread")
    console.print("ratio: before / after, above 1 is better · ~: the samples do not decide it")
    return console.export_text(styles=color)


def _table(members: Iterable[Row]) -> Table:
    table = grid(COLUMNS)
    for change in members:
        after, _, before, name, _, _ = change.cells
        style = "" if change.noisy or change.ratio is None else "[green]" if change.ratio > 1 else "[red]"
        ratio = f"{style}{change.ratio:.2f}" if change.ratio is not None else ""
        shown = (f" {escape(change.entry.what)}", escape(name), before or "failed", after, ratio)
        table.add_row(*shown, "~" if change.noisy else "")
    return table
