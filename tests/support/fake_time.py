"""A clock that only the work done advances."""

from __future__ import annotations

from collections.abc import Callable

from alexkern.measure.timing import CpuTimer


class FakeTime:
    """A clock that only `work` and `sleep` advance, on a machine that grows slower by `drift` a second."""

    def __init__(self, drift: float = 0.0) -> None:
        self.seconds = 0.0
        self.drift = drift
        self.log: list[str] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.log.append("sleep")
        self.seconds += seconds

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.seconds += seconds * (1 + self.drift * self.seconds)

        return call

    def timer(self) -> CpuTimer:
        return CpuTimer(clock=self.now, sleep=self.sleep)
