"""Processes that may crash or hang: what they say, and how they end."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from alexkern.console import printable

STARTING_S = 60.0  # that importing torch may take
LAST_S = 5.0  # that an ended process is waited for


class Stopped(Exception):
    """A process ended before it was done, or did not go on. The message is one line that says how."""


def child() -> list[str]:
    """The command of a process that can import what this one can, and nothing else."""
    program = f"import sys; sys.path[:] = {sys.path!r}; from alexkern.verify.child import main; main()"
    return [sys.executable, "-c", program]


class Children:
    """Starts processes, and ends all that still run when the block is left."""

    def __init__(self, threads: int = 1) -> None:
        self._command = child()
        self._environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._running:
                process.kill()

    def task(self, limit: float, first: float | None = None, **task: Any) -> Iterator[dict[str, Any]]:
        """The messages of a child that does a task.

        Raises:
            Stopped: it said nothing for `limit` seconds (`first`, until it has a result), or ended as it should not.
                What it was at is in the message.
        """
        at, wait = "starting", max(limit, first or STARTING_S)

        def patience() -> float:
            return wait

        try:
            for line in self.lines([*self._command, json.dumps(task)], patience):
                message = json.loads(line)
                if first is None or "at" not in message:
                    wait = limit
                if "at" in message:
                    at = message["at"]
                else:
                    yield message
        except Stopped as error:
            raise Stopped(f"{error} ({at})") from None

    def lines(self, command: Sequence[str], limit: Callable[[], float]) -> Iterator[str]:
        """What a program prints, line by line, as long as no line takes more than limit() seconds."""
        with tempfile.TemporaryFile() as errors, self._started(command, errors) as process:
            assert process.stdout is not None
            descriptor, rest = process.stdout.fileno(), b""
            deadline = time.monotonic() + limit()
            while True:
                if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
                    raise Stopped(f"hangs: no answer for {limit():g} s")
                read = os.read(descriptor, 1 << 16)
                if not read:
                    break
                *whole, rest = (rest + read).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
                    deadline = time.monotonic() + limit()
            try:
                status = process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                raise Stopped(f"hangs at its end: {limit():g} s") from None
            if status != 0:
                raise Stopped(f"crashes: {describe(status)}{_last_line(errors)}")

    @contextmanager
    def _started(self, command: Sequence[str], errors: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        pipe = subprocess.PIPE
        with self._lock:
            if self._closed:
                raise Stopped("was not started")
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=self._environment)
            self._running.add(process)
        try:
            yield process
        finally:
            process.kill()
            with self._lock:
                self._running.discard(process)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            with suppress(subprocess.TimeoutExpired):  # a driver may keep it
                process.wait(LAST_S)


def describe(status: int) -> str:
    """How a process ended."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return f", {printable(lines[-1])[:200]}" if lines else ""
