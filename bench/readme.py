"""The part of README that shows the newest record: `alexkern bench --readme README.md` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from alexkern.bench.machine import describe_machine
from alexkern.bench.record import NAME, Record, read, replace
from alexkern.bench.report import REPORT, history, table
from alexkern.bench.summary import describe_ceilings

BLOCK = re.compile(r"<!-- bench:begin -->\n.*?<!-- bench:end -->", re.DOTALL)
COMMAND = "<!-- written by: alexkern bench --readme README.md -->"
NO_GPU = "No GPU record exists yet. `pytest bench/` measures the machine that it runs on."
SHOWN = ("inference", "training step", "forward", "forward+backward")  # of a record's passes
RESULTS = Path("bench") / "results"


def update(document: Path) -> None:
    """Replaces the block between the markers by what the records beside the document say.

    Raises:
        ValueError: the document has no such block, or a record cannot be read.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{document}: cannot be read ({error.strerror})") from error
    if not BLOCK.search(text):
        raise ValueError(f"{document}: has no line <!-- bench:begin --> with <!-- bench:end --> behind it")
    replace(document, BLOCK.sub(lambda _: block(document.parent), text))


def block(root: Path) -> str:
    """The markers and what belongs between them, for the records under `root`/bench/results."""
    records = [(path.parent, read(path)) for path in sorted((root / RESULTS).glob(f"*/{NAME}"))]
    lines = [COMMAND]
    on_gpu, on_cpu = ([one for one in records if one[1].on_gpu == kind] for kind in (True, False))
    lines += [] if on_gpu else ["", NO_GPU]
    if newest := max(on_gpu or on_cpu, key=lambda one: one[1].date, default=None):
        lines += shown(root, *newest)
    return "\n".join(["<!-- bench:begin -->", *lines, "<!-- bench:end -->"])


def shown(root: Path, folder: Path, record: Record) -> list[str]:
    """A record's first arithmetic and network: its table, one picture, and the way to the rest."""
    place = folder.relative_to(root).as_posix()
    arithmetic = next(iter(record.ceilings), "")
    model = next((one.labels["model"] for one in record.entries if "model" in one.labels), "")
    entries = [
        entry
        for entry in record.entries
        if (entry.arithmetic, entry.labels.get("model")) == (arithmetic, model) and entry.labels["pass"] in SHOWN
    ]
    networks = [entry for entry in entries if "operator" not in entry.labels]
    layers = [entry for entry in entries if "operator" in entry.labels]
    lines = ["", f"**{record.device}, {record.date}**: {describe_machine(record.machine)}."]
    lines += [
        f"{line[0].upper()}{line[1:]}." for line in describe_ceilings(record.ceilings) if f" {arithmetic}:" in line
    ]
    for heading, members in ((f"{model}, {arithmetic}", networks), (f"Its layers, {arithmetic}", layers)):
        if members:
            lines += ["", f"{heading}:", "", *table(members)]
    picture = f"layers-{model}-{arithmetic}.svg"
    if (folder / picture).is_file():
        lines += ["", f"![Share of the limit by layer]({place}/{picture})"]
    lines += ["", *history(record)]
    return [*lines, f"The whole record, with further pictures: [{place}/{REPORT}]({place}/{REPORT}).", ""]
