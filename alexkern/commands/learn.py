"""`alexkern learn`: the ladder of examples/ladder, one layer in seven steps that run anywhere."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from alexkern.backends.building import SOURCES
from alexkern.commands import CommandError

HELP = "one layer in seven steps, each run and counted here, and what finds a fault in it"
DESCRIPTION = (
    "Run a step of the ladder (examples/ladder): build it with the C++ compiler, run it on the emulator, hold it to "
    "torch, and print what it counted. Without STEP: list the steps, and the faults that can be planted in them."
)
LADDER = SOURCES.parent / "examples" / "ladder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The step, and what is done with it."""
    parser.add_argument("step", nargs="?", metavar="STEP", help="1 to 7, or dropout; default: list them")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--break", dest="fault", metavar="FAULT", help="plant a fault; exit status 0 where it was found")
    how.add_argument("--gpu", action="store_true", help="run and time it on the GPU that is here")


def run(args: argparse.Namespace) -> int:
    """Run the step; 1 where it is wrong, or where a planted fault was not found."""
    return _lesson().learn(args.step, args.fault, args.gpu, print)


def _lesson() -> Any:
    if not LADDER.is_dir():
        raise CommandError("the ladder is in the source tree (examples/ladder), which is not here: use a checkout")
    package = ModuleType("alexkern_ladder")
    package.__path__ = [str(LADDER)]
    sys.modules.setdefault(package.__name__, package)
    return import_module("alexkern_ladder.lesson")
