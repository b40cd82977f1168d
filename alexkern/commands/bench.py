"""`alexkern bench`: the benchmarks, run by pytest in this process, and what is made of their records."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from alexkern._trees import EXIT_MIXED, mixed
from alexkern.commands import EXIT_PARTLY, CommandError, print_json
from alexkern.compare import Comparison, compare
from alexkern.console import first_line, named
from alexkern.drawing import NotDrawn

HELP = "measure alexkern against its peers"
DESCRIPTION = (
    "Run the benchmarks and print who wins by how much. Further arguments, as -k conv2d or --batches=1,64, go to "
    "pytest: `alexkern bench --help-run` lists them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is done in place of a plain run; what the parser does not know is pytest's, or that of --static."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--record", metavar="DIR", help="run, and write the record and its table to DIR, its pictures at the end"
    )
    which.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="what changed between two records")
    which.add_argument("--report", type=Path, metavar="DIR", help="write a record's table anew, and draw its pictures")
    which.add_argument("--readme", type=Path, metavar="FILE", help="put the newest record into README")
    which.add_argument(
        "--static", action="store_true", help="what the kernels compile to and are predicted to take, without a GPU"
    )
    which.add_argument(
        "--model", metavar="PACKAGE:FACTORY", help="compare a model of your own: plain, fused, frozen and compiled"
    )
    which.add_argument("--help-run", action="store_true", help="the options of a run")
    parser.add_argument("--json", action="store_true", help="print a run's record, or what --model found, as JSON")
    parser.add_argument("--input", metavar="N,C,H,W", help="the shape of its input")


def run(args: argparse.Namespace) -> int:
    """Do it, and return the exit status: of a run, pytest's."""
    around = (Path.cwd(), *Path.cwd().parents)
    if reason := mixed(next((folder for folder in around if (folder / "alexkern" / "__init__.py").exists()), None)):
        print(f"alexkern bench: {reason}", file=sys.stderr)
        return EXIT_MIXED
    if args.input and not args.model:
        raise CommandError("--input is for --model")
    if args.model and not args.pytest_args:
        found = _compared(args.model, args.input)
        print_json(found.as_data()) if args.json else print(found)
        return 0
    if args.static:
        return _module("static_report").main([*args.pytest_args, *(["--json"] if args.json else [])])
    if not (args.model or args.compare or args.report or args.readme):
        arguments = [*(["--help"] if args.help_run else []), *args.pytest_args]
        return _recorded(args.record, arguments) if args.json else _run(args.record, arguments)
    if args.json:
        raise CommandError("--json is for a run, --static and --model")
    if args.pytest_args:
        raise CommandError(f"unrecognized arguments: {' '.join(args.pytest_args)}")
    records = _module("record")
    try:
        if args.compare:
            color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
            text = _module("changes").render(*map(records.read, args.compare), color=color)
            print(text, end="")
        elif args.report:
            _module("report").illustrate(records.read(args.report), args.report)
            print(args.report)
        else:
            _module("readme").update(args.readme)
    except (ValueError, OSError, NotDrawn) as error:
        raise CommandError(first_line(error)) from error
    return 0


def _run(record: str | None, arguments: Sequence[str]) -> int:
    return _module("run").main([*([f"--record={record}"] if record else []), *arguments])


def _recorded(record: str | None, arguments: Sequence[str]) -> int:
    """A run whose record is all that stdout gets."""
    with TemporaryDirectory() as spare:
        place = record or spare
        with redirect_stdout(sys.stderr):
            status = _run(place, arguments)
        path = Path(place) / _module("record").NAME
        if not path.is_file():
            raise CommandError("nothing was measured", status or EXIT_PARTLY)
        print_json(json.loads(path.read_text(encoding="utf-8")))
    return status


def _compared(name: str, shape: str | None) -> Comparison:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", shape or ""):
        raise CommandError(f"--model needs --input, positive whole numbers as 8,3,224,224; got {shape!r}")
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler, which counts memory, would write to stderr
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _built(name)
    try:
        model = model.to(device)
        dtype = next((value.dtype for value in model.parameters() if value.is_floating_point()), torch.float32)
        return compare(model, torch.randn([int(size) for size in (shape or "").split(",")], device=device, dtype=dtype))
    except Exception as error:
        raise CommandError(f"{name} with input {shape}: {named(error)}") from error


def _built(name: str) -> nn.Module:
    """What package:factory makes; a package in this folder is found too."""
    package, colon, factory = name.partition(":")
    if not (package and colon and factory):
        raise CommandError(f"--model must be package:factory, got {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        make: Any = importlib.import_module(package)
        for part in factory.split("."):
            make = getattr(make, part)
    except Exception as error:
        raise CommandError(f"{name} cannot be imported: {named(error)}") from error
    finally:
        sys.path.remove(os.getcwd())
    if not callable(make):
        raise CommandError(f"{name} must be callable, got {type(make).__name__}")
    try:
        model = make()
    except Exception as error:
        raise CommandError(f"{name}() fails: {named(error)}") from error
    if not isinstance(model, nn.Module):
        raise CommandError(f"{name}() must give a torch.nn.Module, got {type(model).__name__}")
    return model


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"alexkern.bench.{name}")
    except ModuleNotFoundError as error:
        raise CommandError(f"the benchmarks cannot be imported ({error}); install alexkern as README says") from error
