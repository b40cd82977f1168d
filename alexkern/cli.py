"""The command line: `alexkern COMMAND`, one module a command in alexkern/commands/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from alexkern.commands import CommandError, augment, bench, classify, export, info, printable, train, tune

COMMANDS = {
    "info": info,
    "bench": bench,
    "classify": classify,
    "train": train,
    "augment": augment,
    "export": export,
    "tune": tune,
}
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell gives for a program ended by Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 where benchmarks failed, 2 for bad input, 130 for Ctrl-C."""
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if args.command == "bench":
        args.pytest_args = unknown
    elif unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return COMMANDS[args.command].run(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except CommandError as error:
        print(f"alexkern {args.command}: {printable(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="alexkern", description="Hand-tuned kernels for AlexNet-shaped networks.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        # Abbreviations would swallow options that are meant for pytest.
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.DESCRIPTION, allow_abbrev=False)
        command.add_arguments(subparser)
    return parser
