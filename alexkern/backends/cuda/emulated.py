"""The CUDA kernels on the CPU: their sources, compiled by the host's compiler against csrc/emulator, as a module.

Nothing but g++ and pybind11 is needed. What was compiled is kept in the user's cache folder under names made from the
sources, so that a change compiles its own file only; a lock lets several processes start at once.

ALEXKERN_EMULATE says which build: 1, or with a sanitizer in it "address" or "thread". A sanitizer has to be in the
process from its start, by LD_PRELOAD: `missing` says of which file.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType

from alexkern._environment import read
from alexkern.backends.building import (
    EXPORTS,
    HIDING,
    SOURCES,
    digest,
    in_parallel,
    load_module,
    locked,
    make,
    offers,
    remove_old,
)
from alexkern.cache import cache_folder

MODULE = "alexkern_emulated"
WHAT = "compiling the kernels for the emulator"
COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas")
# A misaligned vector access is an error on a GPU, and becomes one here.
TRAP_MISALIGNED = ("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error")


@dataclass(frozen=True)
class Build:
    """Flags of the kernels, of the emulator's own sources, and of both when linked; the sanitizer's runtime library."""

    kernels: tuple[str, ...]
    emulator: tuple[str, ...] = ("-O2",)
    link: tuple[str, ...] = ()
    runtime: str = ""
    symbol: str = ""  # that the runtime brings into a process


# As csrc/emulator/README.md has them, by the value of ALEXKERN_EMULATE.
BUILDS = {
    "1": Build(("-O2", *TRAP_MISALIGNED)),
    "address": Build(
        ("-O1", "-g", "-fsanitize=address", "-fno-omit-frame-pointer", *TRAP_MISALIGNED),
        ("-O2", "-g", "-fsanitize=address"),
        ("-fsanitize=address",),
        "libasan.so",
        "__asan_init",
    ),
    "thread": Build(
        ("-O1", "-g", "-fsanitize=thread"),
        ("-O2", "-g", "-DEMULATOR_RACES"),
        ("-fsanitize=thread",),
        "libtsan.so",
        "__tsan_init",
    ),
}


def chosen() -> str:
    """The build that ALEXKERN_EMULATE names; the plain one where it is not set."""
    return read("ALEXKERN_EMULATE") or "1"


def compiler() -> str:
    return os.environ.get("CXX") or "g++"


def missing() -> str | None:
    """Why the emulated module cannot be built here, or None where it can. Nothing is compiled to find out."""
    if reason := missing_compiler():
        return reason
    if importlib.util.find_spec("pybind11") is None:
        return "the emulator needs pybind11 (pip install 'alexkern[dev]')"
    symbol = BUILDS[chosen()].symbol
    if symbol and not hasattr(ctypes.CDLL(None), symbol):
        return (
            f"ALEXKERN_EMULATE={chosen()} needs the sanitizer in the process from its start: "
            f"set LD_PRELOAD={runtime(chosen())}"
        )
    return None


def missing_compiler() -> str | None:
    """Why nothing at all can be compiled for the emulator here."""
    if sys.platform != "linux":
        return f"the emulator runs on Linux, not on {sys.platform}"
    if not (SOURCES / "emulator" / "emulator.h").exists():
        return f"the emulator compiles the kernels' sources, which are not at {SOURCES}: use a checkout of alexkern"
    if shutil.which(shlex.split(compiler())[0]) is None:
        return f"the emulator needs a C++ compiler, and {compiler()} was not found: install g++, or set CXX"
    return None


def runtime(name: str) -> str:
    """The path of a build's sanitizer, for LD_PRELOAD; its bare name where the compiler does not have it."""
    command = [*shlex.split(compiler()), f"-print-file-name={BUILDS[name].runtime}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


_stand_in: ModuleType | None = None


def load() -> ModuleType:
    """The module that serves CPU tensors: the emulated one, built first where the sources have changed.

    Raises:
        RuntimeError: something that the build needs is missing, or the compiler failed.
    """
    return _stand_in or _load()


@contextmanager
def replaced_by(module: ModuleType) -> Iterator[None]:
    """Within the block another module with the same binding serves CPU tensors."""
    global _stand_in
    before, _stand_in = _stand_in, module
    try:
        yield
    finally:
        _stand_in = before


@lru_cache(maxsize=1)
def _load() -> ModuleType:
    reason = missing()
    if reason is not None:
        raise RuntimeError(f"alexkern: {reason}")
    return load_module(MODULE, build(cache_folder("emulator")))


def build(folder: Path) -> Path:
    """The module's file in `folder`, at once if the sources have not changed since it was built."""
    with locked(folder / "lock"):
        objects = objects_of(folder, _sources(), chosen())
        link = [*shlex.split(compiler()), "-shared", "-pthread", *BUILDS[chosen()].link]
        module = folder / f"{MODULE}-{digest(*link, EXPORTS.read_bytes(), *(path.name for path in objects))}.so"
        if not module.exists():
            make([*link, *HIDING, *map(str, objects)], module, WHAT)
            remove_old(folder, {module, *objects})
    return module


def objects_of(folder: Path, sources: list[Path], name: str, *options: str, headers: Sequence[Path] = ()) -> list[Path]:
    """A build's objects of these sources, which have headers of their own; what is not there yet is compiled.

    Wherever they lie, of two equal copies one is compiled.
    """
    common = digest(_version(), *(path.read_bytes() for path in (*_headers(), *headers)))
    commands = {}
    for source in sources:
        command = _command(source, name)
        path = folder / f"{source.stem}-{digest(common, repr(_placeless(command)), source.read_bytes())}.o"
        commands[path] = [*command, *options, "-c", str(source)]
    in_parallel(lambda path: make(commands[path], path, WHAT), [path for path in commands if not path.exists()])
    return list(commands)


def _sources() -> list[Path]:
    """The emulator, every operator, and the binding."""
    return [
        *sorted((SOURCES / "emulator").glob("*.cpp")),
        *sorted(SOURCES.glob("cuda/*/*.cu")),
        SOURCES / "cuda" / "bindings.cpp",
    ]


def _headers() -> list[Path]:
    return sorted(path for path in SOURCES.rglob("*") if path.suffix in (".h", ".cuh"))


def _command(source: Path, name: str) -> list[str]:
    start = [*shlex.split(compiler()), *COMMON]
    if source.parent.name == "emulator":
        return [*start, *BUILDS[name].emulator]
    start += ["-DALEXKERN_EMULATED", f"-I{SOURCES}"]
    if source.suffix == ".cu":
        return [*start, *BUILDS[name].kernels, "-x", "c++"]
    import pybind11

    start += [f"-DALEXKERN_MODULE={MODULE}", "-O2", *offers(SOURCES / "cuda")]
    return [*start, f"-isystem{pybind11.get_include()}", f"-isystem{sysconfig.get_path('include')}"]


def _placeless(command: list[str]) -> list[str]:
    return [part.replace(str(SOURCES), "csrc") for part in command]


@lru_cache(maxsize=1)
def _version() -> str:
    """What objects depend on besides their sources: the compiler, and the Python whose headers they read."""
    done = subprocess.run([*shlex.split(compiler()), "--version"], capture_output=True, text=True, check=False)
    return f"{done.stdout} {sys.version}"
