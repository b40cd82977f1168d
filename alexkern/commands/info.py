"""`alexkern info`: what is here, and why not the rest."""

from __future__ import annotations

import argparse

import alexkern

HELP = "what is here: GPU, driver, compiler, and which backend serves which operator"
DESCRIPTION = "Say what is here (GPU, driver, nvcc, targets built in), which backend serves which operator, and why."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print(alexkern.info())
    return 0
