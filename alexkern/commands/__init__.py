"""The commands behind `alexkern`, and what they share."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO

from alexkern.console import first_line, printable
from alexkern.errors import BackendUnavailable
from alexkern.models import MODELS, AlexNet, read_weights
from alexkern.ranges import RANGES

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell gives for a program ended by Ctrl-C
EXIT_CLOSED_PIPE = 141  # and for one ended because nobody reads its output any more


class CommandError(Exception):
    """Bad input to a command. The message is one line for the user: what, and what is wrong with it."""


def guarded(program: str, run: Callable[[], int]) -> int:
    """Run a command and return its exit status: without a traceback for bad input, Ctrl-C and `| head`."""
    try:
        try:
            return run()
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except (CommandError, BackendUnavailable) as error:
            print(f"{program}: {printable(str(error))}", file=sys.stderr)
            return EXIT_BAD_INPUT
        finally:
            for stream in _streams():
                stream.flush()  # what Python would do at its end, where nothing can be caught any more
    except BrokenPipeError:
        closed = [stream for stream in _streams() if _is_closed(stream)]
        if not closed:
            raise  # a pipe of ours broke
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:
            os.dup2(nowhere, stream.fileno())  # where Python flushes the rest to
        return EXIT_CLOSED_PIPE


def _streams() -> list[TextIO]:
    """Those there are: a program may be started without."""
    return [stream for stream in (sys.stdout, sys.stderr) if stream is not None]


def _is_closed(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)  # errors are always reported
    except OSError:  # one without a file
        return False
    return bool(poll.poll(0))


def add_number(
    parser: argparse.ArgumentParser, option: str, usual: Any, help: str = "", name: str = "", **told: Any
) -> None:
    """A numeric option, within its row of alexkern/ranges.py (that of `name`, where it is not the option's own)."""
    limits = RANGES[name or option.removeprefix("--")]
    parser.add_argument(
        option,
        type=limits,
        **{"metavar": "N", "default": usual} | told,
        help=f"{help}{help and ', '}{limits}" + ("" if usual is None else f" (default: {usual})"),
    )


def network(source: str, name: str | None) -> AlexNet:
    """The network that a weights file or published weights are of, unless another is named."""
    try:
        weights = read_weights(source, model=name or "alexnet")
        name = name or weights.model or "alexnet"
        if name not in MODELS:
            raise ValueError(f"{weights.source} are of {name!r}; wanted one of {', '.join(MODELS)}")
        return MODELS[name](weights=weights, num_classes=weights.num_classes)
    except (OSError, ValueError) as error:
        raise CommandError(first_line(error)) from error
