"""The programs of csrc/emulator/tests: compiled by the host's compiler, plain and with either sanitizer, and run.

What was built is kept, under a name made from the sources and the commands.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
EMULATOR = ROOT / "csrc" / "emulator"
CACHE = Path(os.environ.get("EMULATOR_BUILD_DIR", ROOT / "build" / "emulator"))

CXX = os.environ.get("CXX", "g++")
COMMON = ["-std=c++17", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
TRAP_MISALIGNED = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
# Of each build: the flags for kernels, and those for the emulator's own sources.
MODES = {
    "plain": (["-O1", *TRAP_MISALIGNED], ["-O1"]),
    "address": (
        ["-O1", "-fsanitize=address", "-fno-omit-frame-pointer", *TRAP_MISALIGNED],
        ["-O1", "-fsanitize=address"],
    ),
    "thread": (["-O1", "-fsanitize=thread"], ["-O1", "-DEMULATOR_RACES"]),
    "portable": (["-O1", *TRAP_MISALIGNED], ["-O1", "-DEMULATOR_PORTABLE_FIBERS"]),
}
SEEDS = {"plain": 12, "address": 6, "thread": 3, "portable": 6}


def sources_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".h", ".cpp", ".cu", ".cuh"})


def digest(*parts: object) -> str:
    """Of all sources and of the command: what a build depends on."""
    text = hashlib.sha256(repr(parts).encode())
    for path in sources_under(EMULATOR) + sources_under(ROOT / "csrc" / "cuda" / "ptx"):
        text.update(path.name.encode() + path.read_bytes())
    return text.hexdigest()[:16]


def command(*arguments: object) -> None:
    done = subprocess.run([str(part) for part in arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"


def compiler_version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


def build(program: str, mode: str) -> Path:
    """The program, compiled by the host's compiler; at once if it was before."""
    kernel_flags, emulator_flags = MODES[mode]
    folder = CACHE / f"{mode}-{digest(CXX, compiler_version(CXX), COMMON, MODES[mode])}"
    result = folder / program
    if result.exists():
        return result
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{program}.{os.getpid()}"  # two processes may build at once
    objects = []
    for source in sorted(EMULATOR.glob("*.cpp")):
        target = folder / f"{source.stem}.o"
        objects.append(target)
        if not target.exists():
            command(CXX, *COMMON, *emulator_flags, "-c", source, "-o", f"{own}.o")
            os.replace(f"{own}.o", target)
    source = EMULATOR / "tests" / f"{program}.cu"
    command(CXX, *COMMON, *kernel_flags, "-Wno-unknown-pragmas", "-x", "c++", source, "-x", "none", *objects, "-o", own)
    os.replace(own, result)
    return result


def run(
    program: Path, case: str, seeds: int = 1, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # ThreadSanitizer's reports become errors of the emulator, and so does the exit status.
    own = {"TSAN_OPTIONS": "exitcode=0", **(environment or {})}
    arguments = [str(program), case, str(seeds)]
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **own}, timeout=600)
    if "unexpected memory mapping" in done.stderr:  # ThreadSanitizer, where the kernel spreads addresses too widely
        arguments = ["setarch", "-R", *arguments]
        done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **own}, timeout=600)
    return done


def passes(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0 and "Sanitizer" not in done.stderr, done.stdout + done.stderr
