"""The commands behind `alexkern`, and what they share."""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import torch

from alexkern.console import first_line, printable
from alexkern.errors import BackendUnavailable
from alexkern.models import MODELS, AlexNet, read_weights
from alexkern.ranges import RANGES

EXIT_PARTLY = 1  # some of what was asked for could not be done
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130  # what a shell gives for a program ended by Ctrl-C
EXIT_CLOSED_PIPE = 141  # and for one ended because nobody reads its output any more


class CommandError(Exception):
    """Bad input to a command, or what ends it. The message is one line for the user: what, and what is wrong."""

    def __init__(self, message: str, status: int = EXIT_BAD_INPUT) -> None:
        super().__init__(message)
        self.status = status


def guarded(program: str, run: Callable[[], int]) -> int:
    """Run a command and return its exit status: without a traceback for bad input, Ctrl-C and `| head`."""
    try:
        try:
            return run()
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except (CommandError, BackendUnavailable) as error:
            print(f"{program}: {printable(str(error))}", file=sys.stderr)
            return error.status if isinstance(error, CommandError) else EXIT_BAD_INPUT
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


def print_json(data: Any) -> None:
    """Print one object; numbers that JSON does not have, nan and infinities, are null."""
    print(json.dumps(_finite(data)))


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


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


def device(name: str | None) -> torch.device:
    """The one that is named, or a GPU where there is one."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {name}: {first_line(error)}") from error
    return found


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
