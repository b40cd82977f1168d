"""What a decoding process does about the signals that end a run: nothing. They are for the process that trains.

A terminal's Ctrl-C, a batch scheduler's notice and `timeout` go to every process of the group.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that come while workers are started wait for the end of the block, in a worker until it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(index: int) -> None:
    """What each worker calls first, with its number."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
