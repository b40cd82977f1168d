"""`alexkern info`: what is here, and why not the rest."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import alexkern
from alexkern.commands import print_json

HELP = "what is here: GPU, driver, compiler, and which backend serves which operator"
DESCRIPTION = "Say what is here (GPU, driver, nvcc, targets built in), which backend serves which operator, and why."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How it is shown."""
    parser.add_argument("--json", action="store_true", help="print JSON in place of the report")


def run(args: argparse.Namespace) -> int:
    """Print it."""
    found = alexkern.info()
    print_json(asdict(found)) if args.json else print(found)
    return 0
