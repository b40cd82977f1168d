"""The closing table: who wins, by how much, where the difference is lost in the noise, and how far the limit is."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexkern.bench.comparison import MS, Kind
from alexkern.bench.record import Entry
from alexkern.bench.rows import Row, absences, number, rows, verdicts

COLUMNS = (
    ("what", 32, "left"),
    ("alexkern", 9, "right"),
    ("images/s", 8, "right"),
    ("best peer", 9, "right"),
    ("its name", 21, "left"),
    ("ratio", 8, "right"),
    ("limit", 5, "right"),
    ("", 1, "left"),
)
LATENCIES = (("latency", 9, "right"), ("peer's", 9, "right"))  # of ours and of that peer, on a GPU
LEGEND = """\
ratio: peer / alexkern, above 1 alexkern wins · ~: level, for quartiles overlap, or under 5 rounds
limit: the share reached of what the ceilings below allow, each operator reading and writing its tensors once"""
LATENCY_LEGEND = (
    "times: on the device with a cold L2 · latency: from the call to its result, by CUDA graph (* by the call)"
)


def render(
    entries: Iterable[Entry], ceilings: Mapping[str, Mapping[str, float]], footer: str, *, color: bool = False
) -> str:
    """The table as text."""
    entries = list(entries)
    found = rows(entries)
    latencies = any(variant.latency for entry in entries for variant in entry.variants)
    columns = (*COLUMNS[:-1], *LATENCIES, COLUMNS[-1]) if latencies else COLUMNS
    output = io.StringIO()
    width = sum(width + 1 for _, width, _ in columns)
    console = Console(
        file=output,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
    )
    console.print(_table([], columns, header=True))
    for section, members in groupby(found, key=lambda row: row.entry.section):
        console.print(f"\n[bold]{escape(section)}[/]")
        console.print(_table(members, columns))
    console.print()
    for absence in absences(entries):
        where = absence.groups[0] if len(absence.groups) == 1 else f"{len(absence.groups)} comparisons"
        console.print(f"not compared: [bold]{escape(absence.name)}[/] in {escape(where)}: {escape(absence.reason)}")
    for line in verdicts(found):
        console.print(line if line.startswith(" ") else f"[bold]{line}[/]")
    console.print(LEGEND)
    if latencies:
        console.print(LATENCY_LEGEND)
    for line in describe_ceilings(ceilings):
        console.print(escape(line))
    console.print(escape(footer), soft_wrap=True)  # commands to copy
    return output.getvalue()


def describe_ceilings(ceilings: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each arithmetic."""
    return [
        f"ceilings measured in this run, {arithmetic}: {flops_per_second(found['flops'])} in a large matrix product, "
        f"{found['bytes'] / 1e9:,.0f} GB/s read and written in a large copy"
        for arithmetic, found in ceilings.items()
    ]


def flops_per_second(rate: float) -> str:
    return f"{rate / 1e12:,.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:,.0f} GFLOP/s"


def _table(members: Iterable[Row], columns: tuple[tuple[str, int, str], ...], header: bool = False) -> Table:
    """Rows in columns of fixed widths, so that the tables of all sections line up."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_header=header)
    for heading, width, justify in columns:
        table.add_column(heading, width=width, justify=justify)  # type: ignore[arg-type]
    for row in members:
        cells = _cells(row)
        latencies = _latencies(row) if len(columns) > len(COLUMNS) else ()
        table.add_row(*cells, *latencies, "~" if row.noisy else "")
    return table


def _cells(row: Row) -> tuple[str, ...]:
    unit = row.entry.unit
    ratio = ""
    if row.difference is not None:
        if row.entry.kind is Kind.OVERHEAD:
            ratio = number(row.difference, unit, sign="+")
        else:
            style = "" if row.noisy else "[green]" if row.difference < 0 else "[red]"
            ratio = f"{style}{row.ratio:.2f}"
    return (
        f" {escape(row.what)}",
        number(row.ours.median, unit) if row.ours.median is not None else "failed",
        f"{row.per_second:,.0f}" if row.per_second else "",
        number(row.peer.median, unit) if row.peer and row.peer.median is not None else "-",
        escape(row.peer.name) if row.peer else "",
        ratio,
        f"{row.share:.0%}" if row.share else "",
    )


def _latencies(row: Row) -> tuple[str, ...]:
    def shown(measured: object) -> str:
        latency, graph = getattr(measured, "latency", None), getattr(measured, "graph", False)
        return f"{number(latency, MS)}{'' if graph else '*'}" if latency else ""

    return shown(row.ours), shown(row.peer)
