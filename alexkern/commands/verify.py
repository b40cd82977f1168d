"""`alexkern verify`: whether the kernels are right on this machine."""

from __future__ import annotations

import argparse
import sys

from alexkern import verified
from alexkern.commands import EXIT_PARTLY, CommandError, add_number, print_json
from alexkern.console import printable
from alexkern.dispatch import PACKAGES, forget
from alexkern.ops.registry import served
from alexkern.verify import LIMIT_S, NoDevice, verify

HELP = "check every operator on every backend that is here, against float64"
DESCRIPTION = (
    "Run every operator, forward and backward, on every backend that is here, each in a process of its own, and hold "
    "the results to float64; on a GPU also try single instructions, and measure the time beside torch's. What was "
    "found is kept for this chip, driver, torch and alexkern. Exit status 1 where something is wrong, crashes or hangs."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is checked, how long it may take, and how it is shown."""
    parser.add_argument("--operator", nargs="+", choices=tuple(served()), metavar="NAME", help="default: all")
    parser.add_argument("--backend", nargs="+", choices=tuple(PACKAGES), metavar="NAME", help="default: all there are")
    parser.add_argument("--thorough", action="store_true", help="every case in every arithmetic and memory format")
    add_number(parser, "--limit", int(LIMIT_S), "of a trial", metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")


def run(args: argparse.Namespace) -> int:
    """Check, keep what was found, and print it."""

    def tell(line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)

    try:
        report = verify(args.operator, args.backend, args.thorough, args.limit, tell)
    except NoDevice as error:
        raise CommandError(str(error)) from None
    for backend in args.backend or ():
        absent = [row.absent for row in report.rows if row.backend == backend]
        if None not in absent:  # nothing of it is here
            raise CommandError(f"backend {backend!r} is not here: {absent[0]}")
    path = verified.write(report.identity, report.operators)
    forget()
    if args.json:
        print_json({**report.as_data(), "record": str(path)})
        return EXIT_PARTLY if report.failed else 0
    print(report)
    for line in report.failed:
        print(printable(f"FAILED {line}"))
    print(f"\n{path} written, {report.seconds:.0f} s")
    return EXIT_PARTLY if report.failed else 0
