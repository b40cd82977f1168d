"""Ctrl-C, a scheduler's SIGTERM, a lost terminal: asked once, a run finishes its step and saves.

Asked again it ends at once. But `timeout`, torchrun and shells send a signal to a process and to its group: what comes
twice so soon is asked once.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from alexkern.data.workers import STOP_SIGNALS

ONCE = 1.0  # seconds in which a signal that comes again is the same one


class StopRequest:
    """Within a `with` block, `signal` is the number of the signal that asked to stop, or 0.

    The second one does what it did before the block. What was ignored there, as SIGHUP is under nohup, stays so.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._asked = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # only there can handlers be set
            for number in STOP_SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.signal:
            self.signal, self._asked = number, now
        elif number != self.signal or now > self._asked + ONCE:
            self.__exit__()
            signal.raise_signal(number)
