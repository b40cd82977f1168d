"""The kernels as nvcc compiles them for one target: an object a source file, and what ptxas said.

A developer's view of what the install builds: it needs nvcc and the sources, and no GPU. What was compiled is kept in
the user's cache folder; several processes that ask at once compile each file once.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from alexkern._nvcc import PLACES, find_nvcc, too_old
from alexkern.backends.building import SOURCES, digest, in_parallel, locked, make, remove_old, run
from alexkern.cache import cache_folder

TARGETS = ("80", "86", "89", "90a", "100a", "120")
# As CMakeLists.txt compiles a release.
FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", f"-I{SOURCES}", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xptxas=-v")
PTXAS = re.compile(
    r"Compiling entry function '(?P<kernel>\S+)' for.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
STATIC_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Assembled:
    """What ptxas says of a kernel: registers a thread, bytes of spilled registers a thread, static shared bytes."""

    registers: int
    spilled: int
    shared: int


@dataclass(frozen=True)
class Object:
    """A source file compiled for a target; seconds is what that took when it was done."""

    source: Path
    target: str
    path: Path
    seconds: float
    kernels: dict[str, Assembled]  # by mangled name


def missing() -> str | None:
    """Why nothing can be compiled here, or None where it can."""
    found = find_nvcc()
    if found is None:
        return f"nvcc was not found (looked at {PLACES})"
    if shutil.which(found) is None:
        return f"nvcc was not found: CUDACXX is {found}"
    if problem := too_old(found):
        return problem
    if not (SOURCES / "cuda" / "bindings.cpp").exists():
        return f"the kernels' sources are not at {SOURCES}: use a checkout of alexkern"
    return None


def nvcc() -> str:
    """Raises RuntimeError where something is missing."""
    reason = missing()
    if reason is not None:
        raise RuntimeError(f"alexkern: {reason}")
    return str(find_nvcc())


def targets() -> tuple[str, ...]:
    """Those of TARGETS that this nvcc knows."""
    known = _told("--list-gpu-code").split()
    return tuple(target for target in TARGETS if f"sm_{target.rstrip('a')}" in known)


def sources() -> list[Path]:
    """The files with kernels, or with the launchers of some: those of the operators."""
    return sorted(SOURCES.glob("cuda/*/*.cu"))


def objects(target: str, files: Sequence[Path] | None = None) -> list[Object]:
    """`files`, else every operator's, compiled for one of TARGETS, at once where they were before.

    Raises:
        RuntimeError: nvcc is missing or failed.
    """
    compiled = _compiled(
        sources() if files is None else files, target, f"-gencode=arch=compute_{target},code=sm_{target}"
    )
    return [_read(source, target, path) for source, path in compiled.items()]


def launchers() -> list[Path]:
    """Every operator's, for the host: objects whose kernels nvcc has not optimised, since nothing will run them."""
    return list(_compiled(sources(), "launchers", "-G", "-gencode=arch=compute_90a,code=compute_90a").values())


def _compiled(files: Sequence[Path], purpose: str, *options: str) -> dict[Path, Path]:
    folder, compiler = cache_folder("nvcc"), nvcc()
    command = [compiler, *FLAGS, *options]
    # Wherever the sources lie: of two equal copies one is compiled.
    placeless = [part.replace(str(SOURCES), "csrc") for part in command]
    common = digest(_version(), repr(placeless), *(path.read_bytes() for path in _headers()))
    paths = {
        source: folder / f"{source.stem}-{digest(common, source.parent.name, source.read_bytes())}.o"
        for source in files
    }
    with locked(folder / f"lock-{purpose}"):
        absent = [source for source, path in paths.items() if not _log(path).exists()]
        in_parallel(lambda source: _compile(command, source, paths[source]), absent)
        remove_old(folder, {*paths.values(), *map(_log, paths.values())})
    return paths


def assembled(log: str) -> dict[str, Assembled]:
    """What `ptxas -v` printed, by kernel."""
    found = {}
    for match in PTXAS.finditer(log):
        shared = STATIC_SHARED.search(match["rest"])
        found[match["kernel"]] = Assembled(
            int(match["registers"]),
            max(int(match["stores"]), int(match["loads"])),
            int(shared[1]) if shared else 0,
        )
    return found


def _compile(command: list[str], source: Path, path: Path) -> None:
    start = time.monotonic()
    words = make([*command, "-c", str(source)], path, "compiling the kernels with nvcc")
    # Last, so that a file whose log is there is whole.
    _log(path).write_text(json.dumps({"seconds": time.monotonic() - start, "words": words}))


def _log(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(source: Path, target: str, path: Path) -> Object:
    log = json.loads(_log(path).read_text())
    return Object(source, target, path, log["seconds"], assembled(log["words"]))


def _headers() -> list[Path]:
    """All but the emulator's, which nvcc does not see."""
    found = (path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cuh"))
    return sorted(path for path in found if "emulator" not in path.relative_to(SOURCES).parts)


@lru_cache(maxsize=1)
def _version() -> str:
    return _told("--version")


def _told(option: str) -> str:
    done = run([nvcc(), option])
    if done.returncode != 0:
        raise RuntimeError(f"alexkern: {nvcc()} {option} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout
