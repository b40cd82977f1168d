"""The closing table: who wins, by how much, where the difference is lost in the noise, and how far the limit is."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alexkern.bench.comparison import MS, Kind
from alexkern.bench.record import Entry, Measured
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
KERNEL = (("kernels", 32, "left"),)  # of ours, on a CPU
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
    kernels = any(variant.kernel for entry in entries for variant in entry.variants)
    more = (*(LATENCIES if latencies else ()), *(KERNEL if kernels else ()))
    columns = (*COLUMNS[:-1], *more, COLUMNS[-1])
    console = paper(sum(width + 1 for _, width, _ in columns), color)
    console.print(_table([], columns, header=True))
    for section, members in groupby(found, key=lambda row: row.entry.section):
        console.print(f"\n[bold]{escape(section)}[/]")
        console.print(_table(members, columns))
    console.print()
    for one in absences(entries):
        console.print(f"not compared: [bold]{escape(one.name)}[/] in {escape(one.where)}: {escape(one.reason)}")
    for line in verdicts(found):
        console.print(line if line.startswith(" ") else f"[bold]{line}[/]")
    console.print(LEGEND)
    if latencies:
        console.print(LATENCY_LEGEND)
    for line in describe_ceilings(ceilings):
        console.print(escape(line))
    console.print(escape(footer), soft_wrap=True)  # commands to copy
    return console.export_text(styles=color)


def paper(width: int, color: bool) -> Console:
    """A console that shows nothing, and gives its text at the end (export_text)."""
    colors = "standard" if color else None
    return Console(
        file=io.StringIO(), record=True, width=width, force_terminal=color, color_system=colors, highlight=False
    )


def grid(columns: Iterable[tuple[str, int, str]], header: bool = False) -> Table:
    """A table without lines in columns of fixed widths, so that those of all sections line up."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_header=header)
    for heading, width, justify in columns:
        table.add_column(heading, width=width, justify=justify)  # type: ignore[arg-type]
    return table


def describe_ceilings(ceilings: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each arithmetic."""
    return [
        f"ceilings measured in this run, {arithmetic}: {flops_per_second(found['flops'])} of arithmetic, "
        f"{found['bytes'] / 1e9:,.0f} GB/s read and written in a large copy"
        for arithmetic, found in ceilings.items()
    ]


def flops_per_second(rate: float) -> str:
    return f"{rate / 1e12:,.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:,.0f} GFLOP/s"


def _table(members: Iterable[Row], columns: tuple[tuple[str, int, str], ...], header: bool = False) -> Table:
    table = grid(columns, header)
    for row in members:
        ours, rate, peer, name, ratio, share = row.cells
        style = "" if row.noisy or row.difference is None else "[green]" if row.difference < 0 else "[red]"
        ratio = ratio if row.entry.kind is Kind.OVERHEAD else f"{style}{ratio}"
        latencies = map(_latency, (row.ours, row.peer)) if LATENCIES[0] in columns else ()
        kernel = (escape(row.kernel),) if KERNEL[0] in columns else ()
        shown = (f" {escape(row.what)}", ours, rate, peer or "-", escape(name), ratio, share)
        table.add_row(*shown, *latencies, *kernel, "~" if row.noisy else "")
    return table


def _latency(measured: Measured | None) -> str:
    if measured is None or not measured.latency:
        return ""
    return f"{number(measured.latency, MS)}{'' if measured.graph else '*'}"
