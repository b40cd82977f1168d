"""What is compiled outside of the install: kept in the user's cache folder under names made from the sources."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from alexkern.files import whole

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
EXPORTS = SOURCES / "exports.map"
HIDING = ("-Xlinker", f"--version-script={EXPORTS}")  # for g++ and nvcc, of whatever they link to a module
KEPT_SECONDS = 30 * 24 * 3600.0


def digest(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    return found.hexdigest()[:16]


def offers(room: Path) -> list[str]:
    """What goes before the bindings.cpp of csrc/cuda: the bind.h of every folder there, as CMakeLists.txt has it."""
    return [part for path in sorted(room.glob("*/bind.h")) for part in ("-include", str(path))]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Without what this process was started with by LD_PRELOAD: a sanitizer, and none of the command's business."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def make(command: list[str], target: Path, what: str) -> str:
    """Run a compiler command and return what it printed; the target appears whole or not at all.

    Raises:
        RuntimeError: the compiler failed; with its words.
    """
    with whole(target) as partial:
        done = run([*command, "-o", str(partial)])
        if done.returncode != 0:
            raise RuntimeError(f"alexkern: {what} failed: {shlex.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def load_module(name: str, path: Path) -> ModuleType:
    """The extension module in a file.

    Raises:
        ImportError: the file is a module of another name, or does not load.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_parallel(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """The results of a function that waits for a process, one process a core."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(function, items))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within the block no other process is in one of the same path."""
    import fcntl  # not on every system, and this package is imported on all of them

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also if the process dies
        yield


def remove_old(folder: Path, in_use: set[Path]) -> None:
    """Files that other sources left behind, a month after they were made."""
    for path in folder.glob("*-*.*"):
        if path not in in_use and time.time() - path.stat().st_mtime > KEPT_SECONDS:
            path.unlink(missing_ok=True)
