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

from alexkern.ops.registry import served
from alexkern.verify.children import Children, Stopped
from alexkern.verify.probes import for_gpu
from alexkern.verify.report import Probe, Report, Row
from alexkern.verify.trials import SIMULATED

LIMIT_S = 60.0  # of one trial
COMPILING_S = 1200.0  # of the first one on the emulator, which is compiled for it
WORKERS = 16
MEMORY = 4 * 2**30  # of a GPU, that a process may need
COMPILED = ("triton",)  # as it is called


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
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with Children(cores) as children:
            (here,) = children.task(limit, task="survey", device=device.type)
    except Stopped as error:
        raise NoDevice(f"the {device.type} device {error}") from None
    missing = here["missing"]
    workers = min(cores, WORKERS, max(here["memory"] // MEMORY, 1))
    rows = [_row(name, backend, missing[backend][name]) for name in operators or served()
            for backend in backends or missing]  # fmt: skip
    found: list[Probe] = []
    with ThreadPoolExecutor(workers) as pool, Children(cores // workers) as children:
        run = _Run(device, children, limit, thorough)
        probed = here["capability"] is not None and operators is None and "cuda" in (backends or missing)
        trying = [pool.submit(tries) for tries in (for_gpu(tuple(here["capability"]), children) if probed else ())]
        parts = [[pool.submit(run.check, row, names) for names in run.parts(row, missing)] for row in rows]
        for future in trying:
            for probe in future.result():
                found.append(probe)
                tell(f"{probe.what}: {probe.verdict}")
        for row, futures in zip(rows, parts, strict=True):
            for messages, end in (part.result() for part in futures):
                row.add_all(messages, end)
            if row.absent is None:
                tell(f"{row.operator} on {row.backend}: {row.verdict}")
        if device.type == "cuda":
            run.time([row for row in rows if row.passed], missing)
    return Report(here["identity"], found, rows, time.monotonic() - start)


def _row(operator: str, backend: str, missing: dict[str, str | None]) -> Row:
    here = any(reason is None for reason in missing.values())
    row = Row(operator, backend, None if here else next(iter(missing.values())))
    if here and served()[operator].reference is None:
        row.failures.append("nothing to hold it to: it has no reference")
    return row


class _Run:
    def __init__(self, device: torch.device, children: Children, limit: float, thorough: bool) -> None:
        self.device, self.children, self.limit, self.thorough = device, children, limit, thorough

    def parts(self, row: Row, missing: dict[str, Any]) -> list[list[str]]:
        """The arithmetics of each process of a row: one each where all that is tried has to be compiled first."""
        if row.absent is not None or row.failures:
            return []
        names = _present(missing[row.backend][row.operator])
        return [[name] for name in names] if self.device.type == "cuda" and row.backend in COMPILED else [names]

    def check(self, row: Row, names: list[str]) -> tuple[list[dict[str, Any]], str | None]:
        """What a process says of a row in some arithmetics, and how it stopped if it did."""
        first = COMPILING_S if self.device.type == "cpu" and row.backend in SIMULATED else None
        task = {"operator": row.operator, "backend": row.backend, "names": names, "thorough": self.thorough}
        messages = []
        try:
            for message in self.children.task(self.limit, first, task="check", device=self.device.type, **task):
                messages.append(message)
        except Stopped as error:
            return messages, str(error)
        return messages, None

    def time(self, rows: Sequence[Row], missing: dict[str, Any]) -> None:
        """One row after the other in one process; where that stops, the next goes on behind the row it was at."""
        left = list(rows)
        while left:
            pairs = [(row.operator, row.backend, _present(missing[row.backend][row.operator])) for row in left]
            try:
                for message in self.children.task(self.limit, task="time", device=self.device.type, pairs=pairs):
                    left.pop(0).add_all([message])
            except Stopped as error:
                left.pop(0).add_all([], str(error))


def _present(missing: dict[str, str | None]) -> list[str]:
    return [name for name, reason in missing.items() if reason is None]
