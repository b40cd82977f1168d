"""The command line: `alexkern COMMAND`, one module a command in alexkern/commands/."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from alexkern.commands import (
    EXIT_BAD_INPUT,
    augment,
    bench,
    classify,
    evaluate,
    export,
    guarded,
    info,
    learn,
    train,
    tune,
    verify,
)
from alexkern.console import printable
from alexkern.info import version

COMMANDS = {
    "info": info,
    "verify": verify,
    "bench": bench,
    "classify": classify,
    "train": train,
    "evaluate": evaluate,
    "augment": augment,
    "export": export,
    "tune": tune,
    "learn": learn,
}


class _Parser(argparse.ArgumentParser):
    """argparse's, which says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {printable(message)}\n")


class _Version(argparse.Action):
    """What argparse's own "version" does, but looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(f"alexkern {version()}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0, 1 where a part could not be done (a damaged image, a benchmark, a run that cannot go on) or a kernel is wrong, 2
    for bad input, 128 and the signal for a run that one has ended, 141 where nobody reads what it prints.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding does not have: é is \\xe9 in ASCII
    return guarded("alexkern", partial(_main, argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if args.command == "bench":
        args.pytest_args = unknown
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return guarded(f"alexkern {args.command}", partial(COMMANDS[args.command].run, args))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="alexkern", description="Hand-tuned kernels for AlexNet-shaped networks.")
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print alexkern's version, and where it is not installed"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        # Abbreviations would swallow options that are meant for pytest.
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.DESCRIPTION, allow_abbrev=False)
        command.add_arguments(subparser)
    return parser
