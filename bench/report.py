"""What a record is shown as: Markdown, written whenever the record is, and pictures beside it, drawn at the end."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby, product
from pathlib import Path

from alexkern.bench import pictures
from alexkern.bench.comparison import MS
from alexkern.bench.history import figures
from alexkern.bench.machine import describe_machine
from alexkern.bench.record import NAME, Entry, Record, replace
from alexkern.bench.record import write as write_record
from alexkern.bench.rows import absences, number, rows, verdicts
from alexkern.bench.summary import describe_ceilings
from alexkern.drawing import style, svg

REPORT = "README.md"  # what a browser of the folder shows
PICTURES = {"layers": pictures.layers, "throughput": pictures.throughput, "memory": pictures.memory}
HEADINGS = ("what", "alexkern", "images/s", "best peer", "its name", "ratio", "of the limit", "")
LATENCIES = ("latency", "peer's latency")
LEGEND = (
    "ratio: peer / alexkern, above 1 alexkern wins; ~: the row decides nothing, for the quartiles overlap or "
    "there are under 5 rounds. The limit: what the ceilings allow; over 100% the data fit into a cache, which the "
    "large copy does not."
)


def write(record: Record, folder: Path) -> None:
    """The record and its page, each replaced in one step."""
    write_record(record, folder)
    replace(folder / REPORT, markdown(record, ()))


def illustrate(record: Record, folder: Path) -> None:
    """The record's pictures, and its page with them, each replaced in one step.

    Raises:
        NotDrawn: matplotlib is missing; nothing is written.
    """
    drawn = draw(record)
    for name, picture in drawn.items():
        replace(folder / name, picture)
    replace(folder / REPORT, markdown(record, drawn))


def draw(record: Record) -> dict[str, str]:
    """The pictures that the record has the measurements for, by file name."""
    models = list(dict.fromkeys(str(one.labels["model"]) for one in record.entries if "model" in one.labels))
    drawn = {}
    with style():
        for arithmetic, model, name in product(record.ceilings, models, PICTURES):
            figure = PICTURES[name](record, arithmetic, model)
            if figure is not None:
                drawn[f"{name}-{model}-{arithmetic}.svg"] = svg(figure)
    return drawn


def markdown(record: Record, drawn: Iterable[str]) -> str:
    """The whole record as a page."""
    lines = [f"# {record.device}, {record.date}", "", describe_machine(record.machine) + ".", ""]
    lines += [f"- {line}" for line in describe_ceilings(record.ceilings)]
    lines += [f"- {line}" for line in verdicts(rows(record.entries))]
    if record.machine.get("load"):
        lines.append(f"- {record.machine['load']}")
    if not record.complete:
        lines.append("- this run was cut off: what follows is what it had measured")
    lines += ["", f"All numbers: [{NAME}]({NAME}). {LEGEND}", ""]
    lines += [line for name in drawn for line in (f"![{name.removesuffix('.svg')}]({name})", "")]
    for section, members in groupby(record.entries, key=lambda entry: entry.section):
        lines += [f"## {section}", "", *table(members), ""]
    lines += history(record)
    missing = absences(record.entries)
    if missing:
        lines += ["## Not compared", ""]
        lines += [f"- {one.name}, {one.where}: {one.reason}" for one in missing]
        lines.append("")
    return "\n".join(lines)


def table(entries: Iterable[Entry]) -> list[str]:
    """Entries as a Markdown table."""
    entries = list(entries)
    timed = any(variant.latency for entry in entries for variant in entry.variants)
    named = any(variant.kernel for entry in entries for variant in entry.variants)
    headings = (*HEADINGS[:-1], *(LATENCIES if timed else ()), *(("kernels",) if named else ()), HEADINGS[-1])
    lines = [_line(headings), _line("---" if index in (0, 4) else "---:" for index in range(len(headings)))]
    for row in rows(entries):
        what = row.entry.what if row.ours == row.entry.ours[0] else f"{row.entry.what}, {row.ours.name}"
        latencies = [number(one.latency, MS) if one and one.latency else "" for one in (row.ours, row.peer)]
        more = [*(latencies if timed else ()), *((row.kernel,) if named else ())]
        lines.append(_line([what, *row.cells, *more, "~" if row.noisy else ""]))
    return lines


def history(record: Record) -> list[str]:
    """The row of convnet-benchmarks beside what it was; nothing where the record has not measured it."""
    found = figures(record)
    if not found:
        return []
    lines = ["## convnet-benchmarks: AlexNet, batch 128, 224 x 224, ms", ""]
    lines += [_line(("by", "on", "date", "total", "forward", "backward")), _line(["---"] * 3 + ["---:"] * 3)]
    for figure in found:
        times = [f"{time:.3g}" for time in (figure.total, figure.forward, figure.backward)]
        lines.append(_line([figure.who, figure.device, figure.date, *times]))
    source = "The figures of 2016 are those of the README of github.com/soumith/convnet-benchmarks."
    return [*lines, "", f"Backward is the difference of the other two. {source}", ""]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
