"""The errors of a training run."""

from __future__ import annotations

import re

import torch

from alexkern.console import first_line

WORKER_GONE = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(?: is killed by signal: ([\w ]+))?")


class TrainingError(Exception):
    """A run cannot start. The message is one line for the user."""

    status = 2


class RunFailed(TrainingError):
    """A run that had started cannot go on."""

    status = 1


class Interrupted(Exception):
    """A run that was asked to stop, and has saved where it is; or one that another of its processes has ended.

    `status` is what a shell gives for the signal.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def cause(error: RuntimeError) -> str:
    """In one line, what of the machine has ended a step. Raises the error itself where it is a fault of ours."""
    text = first_line(error)
    if gone := WORKER_GONE.match(text):
        how = f" ({gone[2].strip()})" if gone[2] else ""
        return f"a decoding process, {gone[1]}, was ended by the system{how}, as where memory is short: fewer --workers"
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return f"the memory does not suffice, a smaller --batch-size needs less ({text})"
    if isinstance(error, torch.distributed.DistError) or "gloo" in text:
        return f"another process of the run is gone ({text})"
    raise error
