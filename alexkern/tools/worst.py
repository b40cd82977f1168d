"""Profiles of the rows of a bench's record in which alexkern is furthest behind:

    python -m alexkern.tools.worst RECORD --out DIR

Of each row DIR gets the table of torch's profiler and, where Nsight Compute is installed, what ncu reads of the kernels
of one call. `--only N` calls the N-th row between marks of CUDA's profiler, and is what ncu runs.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import alexkern.bench
from alexkern.bench.comparison import Comparison, Kind, describe
from alexkern.bench.options import Options
from alexkern.bench.record import Record, read
from alexkern.bench.rows import Row, rows
from alexkern.commands import CommandError, guarded

WARM, CALLS, LAUNCHES = 3, 5, 16
PROFILER_ROWS, NAME_WIDTH = 25, 90
# The card's clocks are left alone; a call's kernels, not those that prepare it.
NCU = ("--clock-control", "none", "--profile-from-start", "off", "--set", "detailed", "--launch-count", str(LAUNCHES))


class Unset:
    """As pytest's configuration where nobody gave an option."""

    def getoption(self, name: str, default: Any = None) -> Any:
        return default


def worst(record: Record, count: int) -> list[Row]:
    """The slowest against its peer first, and one row of a comparison."""
    races = [row for row in rows(record.entries)
             if row.entry.kind in (Kind.OPERATOR, Kind.NETWORK) and row.ratio is not None]  # fmt: skip
    found: dict[str, Row] = {}
    for row in sorted(races, key=lambda row: row.ratio or 0.0):
        found.setdefault(row.entry.group, row)
    return list(found.values())[:count]


def comparisons(options: Options) -> Iterator[Comparison]:
    """Everything that a run compares."""
    for path in sorted(Path(alexkern.bench.__path__[0]).glob("bench_*.py")):
        for function in runpy.run_path(str(path)).values():
            yield from getattr(function, "comparisons", lambda _: ())(options)


@contextmanager
def prepared(row: Row, known: dict[str, Comparison]) -> Iterator[Callable[[], object]]:
    """A row's call, warm, in its arithmetic."""
    comparison = known.get(row.entry.group)
    if comparison is None:
        raise LookupError("it is none of a run's with the default options")
    with comparison.target.precision() if comparison.target else nullcontext():
        call = comparison.setup().prepare(row.ours.name)
        for _ in range(WARM):
            call()
        settle()
        yield call


def settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def profiled(call: Callable[[], object]) -> str:
    """What torch's profiler says of some calls."""
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as found:
        for _ in range(CALLS):
            call()
        settle()
    key = "self_cuda_time_total" if gpu else "self_cpu_time_total"
    table: str = found.key_averages().table(sort_by=key, row_limit=PROFILER_ROWS, max_name_column_width=NAME_WIDTH)
    return table


def once(call: Callable[[], object]) -> None:
    """Between the marks that ncu waits for."""
    torch.cuda.profiler.start()
    call()
    settle()
    torch.cuda.profiler.stop()


def find_ncu() -> str | None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"))
    return shutil.which("ncu", path=path) if torch.cuda.is_available() else None


def by_ncu(ncu: str, record: Path, number: int, page: Path) -> str:
    """How it went, in a line."""
    command = [ncu, *NCU, sys.executable, "-m", "alexkern.tools.worst", str(record), "--only", str(number)]
    with page.open("w", encoding="utf-8") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    lines = [line for line in page.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return page.name if status == 0 else f"ncu failed with status {status}: {lines[-1] if lines else 'it says nothing'}"


def title(row: Row) -> str:
    return f"{row.entry.group}, {row.ours.name}: {row.ratio:.2f} times as fast as {row.peer.name if row.peer else ''}"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the profiles; 1 where a row could not be called."""
    parser = argparse.ArgumentParser(prog="python -m alexkern.tools.worst", description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path, help="a folder that `alexkern bench --record` wrote")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: the current folder")
    parser.add_argument("--count", type=int, default=5, metavar="N", help="how many rows; default: 5")
    parser.add_argument("--only", type=int, metavar="N", help="call the N-th once, and write nothing")
    args = parser.parse_args(argv)
    try:
        found = worst(read(args.record), args.count if args.only is None else args.only)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if not found:
        raise CommandError(f"{args.record}: no row with a peer")
    known = {comparison.group: comparison for comparison in comparisons(Options.read(Unset()))}
    if args.only is not None:
        with prepared(found[-1], known) as call:
            once(call)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for number, row in enumerate(found, start=1):
        try:
            with prepared(row, known) as call:
                (args.out / f"{number}-torch.txt").write_text(f"{title(row)}\n{profiled(call)}\n", encoding="utf-8")
            print(f"{number}. {title(row)}", flush=True)
        except Exception as error:
            failed += 1
            print(f"{number}. {title(row)}: not profiled: {describe(error)}", flush=True)
    if ncu := find_ncu():
        for number in range(1, len(found) + 1):
            print(by_ncu(ncu, args.record, number, args.out / f"{number}-ncu.txt"), flush=True)
    print(f"{len(found) - failed} of {len(found)} rows profiled, the worst: {title(found[0])}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(guarded("python -m alexkern.tools.worst", lambda: main()))
