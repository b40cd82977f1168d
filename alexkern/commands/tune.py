"""`alexkern tune`: measure this GPU, and write the table of configurations that the kernels then use on it."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alexkern.arithmetic import ARITHMETIC
from alexkern.cache import unwritable
from alexkern.commands import CommandError, add_number
from alexkern.console import Console, first_line
from alexkern.models import MODELS
from alexkern.ops.registry import OPERATORS

HELP = "measure kernel configurations on this GPU"
DESCRIPTION = (
    "Find the fastest configuration of every Triton kernel for the AlexNets' layers on this GPU, and write them to its "
    "table: GPU.json in the folder ALEXKERN_TUNED, else in ~/.cache/alexkern/tuned. What a table already has is kept, "
    "so that an interrupted run can be continued."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is tuned, and where the table goes."""
    parser.add_argument("--out", type=Path, metavar="F", help="the table; default: this GPU's, of this user")
    dtypes = tuple(reversed(ARITHMETIC))
    for option, values, default in (
        ("--models", tuple(MODELS), ("alexnet", "alexnet_2012")),
        ("--operators", OPERATORS, OPERATORS),
        ("--dtypes", dtypes, dtypes),
    ):
        told = "all" if default == values else " ".join(default)
        names = f"of {', '.join(values)}; default: {told}"
        parser.add_argument(option, nargs="+", choices=values, default=default, metavar="NAME", help=names)
    add_number(parser, "--batches", 128, nargs="+", default=[128])
    add_number(parser, "--jobs", os.cpu_count() or 1, "compiling processes")


def run(args: argparse.Namespace) -> int:
    """Tune what the table does not have; 0 when all of it is there."""
    _require_gpu()
    from alexkern.kernels.config import describe, table_path, users_tables

    tuning, tuning_gpu, workloads = map(_tool, ("tuning", "tuning_gpu", "workloads"))
    device = torch.device("cuda")
    description = describe(device)
    path = args.out.absolute() if args.out else table_path(description.name, users_tables())
    reason = unwritable(path.parent)
    if reason is not None:
        raise CommandError(f"{reason}; name a place for {path.name} with --out, or a folder with ALEXKERN_TUNED")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        table = tuning.TunedTable(path, description)
    except (OSError, ValueError) as error:
        raise CommandError(first_line(error)) from error
    operators = workloads.having("triton", args.operators)
    found = tuning.choices(workloads.workloads(args.models, args.dtypes, args.batches, operators), description)
    pending = [choice for choice in found if choice.key not in table.done]
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        tuning_gpu.GpuBench(device, args.jobs) as bench,
    ):
        task = progress.add_task(_label(pending), total=len(found), completed=len(found) - len(pending))
        for number, (choice, tuned) in enumerate(tuning.tune(pending, bench, table), start=1):
            gain = tuned.default_seconds / tuned.seconds
            line = f"{choice.workload} {choice.key[0]}: {tuned.seconds * 1e6:.1f} us, {gain:.2f} times as fast"
            console.print(line, soft_wrap=True, highlight=False)
            progress.update(task, advance=1, description=_label(pending[number:]))
    print(path)
    return 0


def _tool(name: str) -> Any:
    return importlib.import_module(f"alexkern.tools.{name}")  # which the library does without


def _require_gpu() -> None:
    from alexkern import kernels

    if not torch.cuda.is_available():
        raise CommandError("needs an NVIDIA GPU that torch can use, and there is none here")
    reason = kernels.missing("cuda", torch.float32)
    if reason is not None:
        raise CommandError(reason)
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise CommandError("TRITON_INTERPRET=1 is set, and an interpreter's times say nothing; unset it")


def _label(pending: list[Any]) -> str:
    return str(pending[0].workload) if pending else "done"
