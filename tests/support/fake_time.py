"""A clock that only `work` and `sleep` advance."""

from __future__ import annotations

from collections.abc import Callable

from alexkern.measure.timing import CpuTimer


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.log: list[str] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.log.append("sleep")
        self.seconds += seconds

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.seconds += seconds

        return call

    def timer(self) -> CpuTimer:
        return CpuTimer(clock=self.now, sleep=self.sleep)
