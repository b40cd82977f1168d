"""`alexkern bench`: the benchmarks, run by pytest in this process, so that torch is imported once."""

from __future__ import annotations

import argparse
import importlib

from alexkern.commands import CommandError

HELP = "measure alexkern against its peers"
DESCRIPTION = "Run the benchmarks and print who wins by how much. Further arguments, as -k conv2d, go to pytest."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own: what the parser does not know is pytest's."""


def run(args: argparse.Namespace) -> int:
    """Run them, and return pytest's exit status."""
    try:
        bench = importlib.import_module("alexkern.bench.run")
    except ModuleNotFoundError as error:
        raise CommandError(f"the benchmarks cannot be imported ({error}); install alexkern as README says") from error
    status: int = bench.main(args.pytest_args)
    return status
