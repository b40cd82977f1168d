"""Whether the kernels are right on the device that is here: every operator on every backend, against float64.

Everything runs in processes of its own, several at once, so that a hang or a crash is a row of the report and the rest
goes on; CUDA is started in those alone. What is timed is timed afterwards, with nothing beside it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from alexkern.ops.registry import OPERATORS
from alexkern.references import REFERENCES
from alexkern.verify.children import Children, Stopped
from alexkern.verify.probes import for_gpu
from alexkern.verify.report import Probe, Report, Row
from alexkern.verify.trials import SIMULATED

LIMIT_S = 60.0  # of one trial
COMPILING_S = 1200.0  # of the first one on the emulator, which is compiled for it
WORKERS = 8


class NoDevice(Exception):
    """The device does not answer. The message is one line for the user."""


def verify(
    operators: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    thorough: bool = False,
    limit: float = LIMIT_S,
    tell: Callable[[str], None] = lambda line: None,
) -> Report:
    """Check the operators (all by default) on the backends (all that are here), and on a GPU time them.

    limit: the seconds that one trial may take; tell: gets a line for everything that is done.

    Raises:
        NoDevice: the device does not even say its name.
    """
    start = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cores = len(os.sched_getaffinity(0))
    workers = min(cores, WORKERS)
    with Children(cores // workers) as children, ThreadPoolExecutor(workers) as pool:
        try:
            (here,) = children.task(limit, task="survey", device=device.type)
        except Stopped as error:
            raise NoDevice(f"the {device.type} device {error}") from None
        capability = here["capability"]
        whole = operators is None and "cuda" in (backends or here["missing"])
        tried = for_gpu(tuple(capability), children) if capability and whole else []
        trying = [pool.submit(probe) for probe in tried]
        rows = [_row(name, backend, here["missing"][backend][name]) for name in operators or OPERATORS
                for backend in backends or here["missing"]]  # fmt: skip
        run = _Run(device, children, limit, thorough)
        checked = pool.map(lambda row: run.check(row, here["missing"][row.backend][row.operator]), rows)
        found: list[Probe] = []
        for future in trying:
            found.append(future.result())
            tell(f"{found[-1].what}: {found[-1].verdict}")
        for row in (row for row in checked if row.absent is None):
            tell(f"{row.operator} on {row.backend}: {row.verdict}")
        if device.type == "cuda":
            run.time([row for row in rows if row.passed], here["missing"])
    return Report(here["identity"], found, rows, time.monotonic() - start)


def _row(operator: str, backend: str, missing: dict[str, str | None]) -> Row:
    here = any(reason is None for reason in missing.values())
    row = Row(operator, backend, None if here else next(iter(missing.values())))
    if here and operator not in REFERENCES:
        row.failures.append("nothing to hold it to: it has no file in alexkern/references")
    return row


class _Run:
    def __init__(self, device: torch.device, children: Children, limit: float, thorough: bool) -> None:
        self.device, self.children, self.limit, self.thorough = device, children, limit, thorough

    def check(self, row: Row, missing: dict[str, str | None]) -> Row:
        """Try everything of a row that is here and has no failure."""
        if row.absent is not None or row.failures:
            return row
        first = COMPILING_S if self.device.type == "cpu" and row.backend in SIMULATED else None
        task = {"operator": row.operator, "backend": row.backend, "names": _present(missing), "thorough": self.thorough}
        self._follow([row], first, task="check", **task)
        return row

    def time(self, rows: Sequence[Row], missing: dict[str, Any]) -> None:
        """One row after the other in one process; where that ends, the next goes on behind the row it was at."""
        left = list(rows)
        while left:
            pairs = [(row.operator, row.backend, _present(missing[row.backend][row.operator])) for row in left]
            left = self._follow(left, None, task="time", pairs=pairs)

    def _follow(self, rows: Sequence[Row], first: float | None, **task: Any) -> list[Row]:
        """Give a child's messages to their rows, and return those that it left: a crash is of the row it was at."""
        waiting = list(rows)
        try:
            for message in self.children.task(self.limit, first, device=self.device.type, **task):
                waiting[0].add(message)
                if "ms" in message:
                    waiting.pop(0)
        except Stopped as error:
            waiting[0].failures.append(str(error))
            return waiting[1:]
        return []


def _present(missing: dict[str, str | None]) -> list[str]:
    return [name for name, reason in missing.items() if reason is None]
