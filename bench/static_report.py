"""`alexkern bench --static`: what every kernel compiles to for each chip, and what it is predicted to take there.

Nothing is run and no GPU is needed. Registers, shared memory and instructions are those of the machine code; waves
follow from the grid; times are predictions (prediction.py) from published ceilings (chips.py), with the measurement
beside them where bench/results has a record of that chip.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from alexkern.bench import static_cuda
from alexkern.bench.comparison import MS
from alexkern.bench.options import ON_GPU, comma_separated, sizes
from alexkern.bench.prediction import Prediction, predict, waves
from alexkern.bench.record import NAME, Record, read
from alexkern.bench.rows import number
from alexkern.commands import CommandError
from alexkern.console import Console, first_line
from alexkern.cost.chips import CHIPS, Chip
from alexkern.cost.model import limits
from alexkern.kernels import why_not_compiled
from alexkern.models import MODELS
from alexkern.ops.registry import OPERATORS
from alexkern.tools import rehearsal
from alexkern.tools.sass import Launched

RESULTS = Path(__file__).parent / "results"
SHOWN_OPCODES = 5
NOTE = (
    "prediction: what the tiles allow at best by published ceilings, without launches and caches; it is no measurement"
)


@dataclass(frozen=True)
class Line:
    """One launch on one chip."""

    backend: str
    chip: Chip
    workload: Any
    call: str
    report: Launched

    @property
    def title(self) -> str:
        of = self.workload
        return f"{of.operator}, {of.model} {of.layer} {of.arithmetic} x {of.batch}, {self.call}"

    @property
    def named(self) -> dict[str, str]:
        """What tells the call from every other."""
        one = {"backend": self.backend, "chip": self.chip.label}
        return one | {"workload": str(self.workload), "call": self.call}

    @property
    def waves(self) -> float:
        return waves(self.report, self.chip.num_sms)

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that the resident blocks have."""
        return float(self.report.blocks * self.report.num_warps / limits(self.chip.target).warps)

    @property
    def mix(self) -> str:
        """The main loop: instructions, those on tensor cores, and the most frequent of all."""
        loop = self.report.main_loop
        if not loop:
            return "no loop"
        counts = " ".join(f"{name} {count}" for name, count in list(loop.items())[:SHOWN_OPCODES])
        return f"{sum(loop.values())} ({self.report.products} tensor): {counts}"


@dataclass(frozen=True)
class Predicted:
    """A call on one chip, of which `line` is a launch, and its measured time where a record has it (seconds)."""

    line: Line
    prediction: Prediction
    measured: float | None


def triton_lines(workloads: Sequence[Any], chips: Sequence[Chip], jobs: int) -> Iterator[Line]:
    """What the Triton kernels of these workloads compile to for these chips."""
    from alexkern.tools import aot

    named = {str(workload): workload for workload in workloads}
    for chip in chips:
        for report in aot.reports(workloads, [chip], jobs):
            yield Line("triton", chip, named[report.workload], report.call, report)


def cuda_lines(workloads: Sequence[Any], chips: Sequence[Chip]) -> Iterator[Line]:
    """What the CUDA C++ kernels' launchers would launch for these workloads, and what nvcc makes of those kernels."""
    for chip in chips:
        yield from (Line("cuda", chip, *found) for found in static_cuda.reports(workloads, chip))


def predictions(lines: Iterable[Line], records: Sequence[Record]) -> list[Predicted]:
    """A prediction for every call of every chip."""
    found = []
    for _, members in groupby(lines, key=lambda line: line.named):
        group = list(members)
        one = group[0]
        prediction = predict(one.workload, one.call, [line.report for line in group], one.chip)
        found.append(Predicted(one, prediction, measured(one, records)))
    return found


def measured(line: Line, records: Sequence[Record]) -> float | None:
    """The median of that backend's variant in the newest record of the chip."""
    workload = line.workload
    wanted = {
        "operator": workload.operator,
        "model": workload.model,
        "layer": workload.layer,
        "batch": workload.batch,
        "pass": line.call,
    }
    for record in sorted(records, key=lambda record: record.date, reverse=True):
        if line.chip.label not in record.device.split():
            continue
        for entry in record.select(workload.arithmetic, wanted):
            found = entry.variant(f"alexkern {line.backend}")
            if found is not None and found.median is not None:
                return found.median
    return None


def records(folder: Path = RESULTS) -> list[Record]:
    """Those of GPUs that are checked in."""
    return [record for path in sorted(folder.glob(f"*/{NAME}")) if (record := read(path)).on_gpu]


def render(lines: Sequence[Line], predicted: Sequence[Predicted], console: Console) -> None:
    """Kernels by target first, then predictions by call, with a chip a column."""
    for target, members in groupby(lines, key=lambda line: (line.backend, line.chip.label)):
        console.print(f"\n[bold]{target[0]} kernels on {target[1]}[/]")
        console.print(_kernels(list(members)))
    console.print("\n[bold]predicted time and share of the limit[/]")
    console.print(_predictions(predicted))
    console.print(NOTE)


def _kernels(lines: Sequence[Line]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("layer, call", overflow="fold")
    table.add_column("kernel, tile", overflow="fold")
    for heading in ("registers", "shared", "blocks/SM", "warps", "waves"):
        table.add_column(heading, justify="right")
    table.add_column("main loop", overflow="fold")
    before = ""
    for line in lines:
        report = line.report
        table.add_row(
            line.title if line.title != before else "",
            f"{report.kernel} {report.tile}",
            str(report.registers),
            f"{report.shared:,}",
            str(report.blocks),
            f"{line.occupancy:.0%}",
            f"{line.waves:.2f}",
            line.mix,
        )
        before = line.title
    return table


def _predictions(predicted: Sequence[Predicted]) -> Table:
    chips = list(dict.fromkeys(one.line.chip.label for one in predicted))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("layer, call", overflow="fold")
    for chip in chips:
        table.add_column(f"{chip}, prediction", justify="right")
        table.add_column("measured", justify="right")
    rows: dict[str, dict[str, Predicted]] = {}
    for one in predicted:
        rows.setdefault(f"{one.line.backend}: {one.line.title}", {})[one.line.chip.label] = one
    for title, found in rows.items():
        cells = []
        for chip in chips:
            here = found.get(chip)
            time = f"{here.prediction.seconds * 1e6:,.1f} us, {here.prediction.share:.0%}" if here else ""
            cells += [time, number(here.measured, MS) if here and here.measured else "not measured"]
        table.add_row(title, *cells)
    return table


def as_json(lines: Sequence[Line], predicted: Sequence[Predicted]) -> Iterator[str]:
    """One object a line: kernels, then predictions."""
    for line in lines:
        own = line.named | {"waves": line.waves, "occupancy": line.occupancy}
        yield json.dumps({"kernel": dataclasses.asdict(line.report) | own})
    for one in predicted:
        times = {"seconds": one.prediction.seconds, "share": one.prediction.share, "measured_seconds": one.measured}
        yield json.dumps({"prediction": one.line.named | times})


def missing(backend: str) -> str | None:
    """Why a backend's kernels cannot be compiled here, or None where they can."""
    return rehearsal.missing() if backend == "cuda" else why_not_compiled()


def main(argv: Sequence[str]) -> int:
    """Print the report; 0 when all of it compiles."""
    args = _parser().parse_args(argv)
    for backend in args.backends:
        reason = missing(backend)
        if reason is not None:
            raise CommandError(f"the {backend} kernels cannot be compiled: {reason} (--backends names those that are)")
    from alexkern.tools.workloads import having, workloads

    chips = [CHIPS[label] for label in args.chips]
    lines: list[Line] = []
    for backend in args.backends:
        operators = having(backend, args.operators)
        problems = list(workloads(args.models, args.dtypes, args.batches, operators, args.layers))
        try:
            if problems:
                lines += cuda_lines(problems, chips) if backend == "cuda" else triton_lines(problems, chips, args.jobs)
        except RuntimeError as error:
            raise CommandError(first_line(error).removeprefix("alexkern: ")) from error
    predicted = predictions(lines, records())
    if args.json:
        print("\n".join(as_json(lines, predicted)))
    else:
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        render(lines, predicted, console)
    return 0


def _parser() -> argparse.ArgumentParser:
    names: Callable[[Iterable[str]], Callable[[str], tuple[str, ...]]] = comma_separated
    every_chip = tuple(CHIPS)
    parser = argparse.ArgumentParser(prog="alexkern bench --static", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", type=names(MODELS), default=("alexnet",), help=f"of {', '.join(MODELS)}; or all")
    parser.add_argument("--operators", type=names(OPERATORS), default=OPERATORS, help="default: all")
    parser.add_argument("--layers", type=lambda text: text.split(","), help="conv1, pool1, ...; default: all")
    parser.add_argument("--dtypes", type=names(ON_GPU), default=("bfloat16",), help="default: bfloat16; or all")
    parser.add_argument("--batches", type=sizes, default=(1, 128), help="default: 1,128")
    backends = ("triton", "cuda")
    parser.add_argument("--backends", type=names(backends), default=backends, help="triton, cuda; default: both")
    parser.add_argument("--chips", type=names(every_chip), default=every_chip, help=f"of {', '.join(every_chip)}")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="compiling processes; default: one a core"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    return parser
