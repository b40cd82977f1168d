"""The CUDA kernels on the CPU: their sources, compiled by the host's compiler against csrc/emulator, as a module.

Nothing but g++ and pybind11 is needed. What was compiled is kept in the user's cache folder under names made from the
sources, so that a change compiles its own file only; a lock lets several processes start at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
MODULE = "alexkern_emulated"
COMMON = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
# A misaligned vector access is an error on a GPU, and becomes one here.
KERNELS = ("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")
KEPT_SECONDS = 30 * 24 * 3600.0


def cache_folder() -> Path:
    """Where compiled files are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexkern" / "emulator"


def compiler() -> str:
    return os.environ.get("CXX") or "g++"


def missing() -> str | None:
    """Why the emulated module cannot be built here, or None where it can. Nothing is compiled to find out."""
    if sys.platform != "linux":
        return f"the emulator runs on Linux, not on {sys.platform}"
    if not (SOURCES / "emulator" / "emulator.h").exists():
        return f"the emulator compiles the kernels' sources, which are not at {SOURCES}: use a checkout of alexkern"
    if shutil.which(shlex.split(compiler())[0]) is None:
        return f"the emulator needs a C++ compiler, and {compiler()} was not found: install g++, or set CXX"
    if importlib.util.find_spec("pybind11") is None:
        return "the emulator needs pybind11 (pip install pybind11)"
    return None


@lru_cache(maxsize=1)
def load() -> ModuleType:
    """The emulated module, built first where the sources have changed.

    Raises:
        RuntimeError: something that the build needs is missing, or the compiler failed.
    """
    reason = missing()
    if reason is not None:
        raise RuntimeError(f"alexkern: {reason}")
    path = build(cache_folder())
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(folder: Path) -> Path:
    """The module's file in `folder`, at once if the sources have not changed since it was built."""
    commands = {source: _command(source) for source in _sources()}
    common = _digest(_version(), *(path.read_bytes() for path in _headers()))
    objects = {
        source: folder / f"{source.stem}-{_digest(common, repr(command), source.read_bytes())}.o"
        for source, command in commands.items()
    }
    link = [*shlex.split(compiler()), "-shared", "-pthread"]
    module = folder / f"{MODULE}-{_digest(*link, *(path.name for path in objects.values()))}.so"
    if module.exists():
        return module
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        absent = [source for source, path in objects.items() if not path.exists()]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda source: _make([*commands[source], "-c", str(source)], objects[source]), absent))
        if not module.exists():
            _make([*link, *map(str, objects.values())], module)
        _remove_old(folder, {module, *objects.values()})
    return module


def _sources() -> list[Path]:
    """The emulator, every operator, and the binding."""
    return [
        *sorted((SOURCES / "emulator").glob("*.cpp")),
        *sorted(SOURCES.glob("*/*.cu")),
        SOURCES / "bindings.cpp",
    ]


def _headers() -> list[Path]:
    return sorted(path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cuh"))


def _command(source: Path) -> list[str]:
    start = [*shlex.split(compiler()), *COMMON]
    if source.parent.name == "emulator":
        return start
    start += ["-DALEXKERN_EMULATED", f"-I{SOURCES}"]
    if source.suffix == ".cu":
        return [*start, *KERNELS, "-x", "c++"]
    import pybind11

    return [*start, f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}"]


@lru_cache(maxsize=1)
def _version() -> str:
    """What objects depend on besides their sources: the compiler, and the Python whose headers they read."""
    done = subprocess.run([*shlex.split(compiler()), "--version"], capture_output=True, text=True, check=False)
    return f"{done.stdout} {sys.version}"


def _digest(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    return found.hexdigest()[:16]


def _make(command: list[str], target: Path) -> None:
    """Run a compiler command; the target appears whole or not at all."""
    partial = target.with_name(f"{target.name}.partial")
    done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        partial.unlink(missing_ok=True)
        words = f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        raise RuntimeError(f"alexkern: compiling the kernels for the emulator failed: {words}")
    os.replace(partial, target)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl  # not on every system, and this package is imported on all of them

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also if the process dies
        yield


def _remove_old(folder: Path, in_use: set[Path]) -> None:
    """Files that other sources left behind, a month after they were made."""
    for path in folder.glob("*-*.*"):
        if path not in in_use and time.time() - path.stat().st_mtime > KEPT_SECONDS:
            path.unlink(missing_ok=True)
