"""Everything that a GPU is asked in one run, most valuable first, so that a run cut off anywhere leaves the most.

    make chip OUT=DIR SECONDS=600

docs/chip.md says what the stages are and what lies in DIR afterwards. This file runs by its path, before alexkern is
installed: the standard library only.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.util
import json
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
STAGING = runpy.run_path(str(Path(__file__).with_name("staging.py")))
Stage: Any = STAGING["Stage"]
text: Callable[[Path], str] = STAGING["text"]
tail: Callable[[Path], str] = STAGING["tail"]
said: Callable[[Path], str] = STAGING["said"]
OUTPUT = STAGING["OUTPUT"]
EXIT_BAD_INPUT = 2
SOURCES = ("alexkern", "bench", "csrc", "kernels", "tests", "CMakeLists.txt", "pyproject.toml", "setup.py")
SUFFIXES = (".py", ".h", ".cuh", ".cu", ".cpp", ".txt", ".toml")
PYTEST = ("-m", "pytest", "-v", "-ra", "--tb=short", "--color=no", "-p", "no:cacheprovider")
SANITIZERS = "tests/test_gpu_sanitizers.py"  # a stage of their own
VERIFIES = "tests/test_verify.py::test_gpu_is_right"  # what the stage before did


def build(folder: Path, limit: float) -> Sequence[str]:
    """For the GPU that is here alone: CMakeLists.txt asks nvidia-smi where ALEXKERN_CUDA_ARCHS is not set."""
    return ("-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", "-e", ".")


def built(folder: Path) -> str:
    """Which native modules there are, and why others are not; nothing where something else stopped the install."""
    reasons = dict.fromkeys(re.findall(r"alexkern: (installing without .*|the build of .*)", said(folder)))
    installed = "Successfully installed" in said(folder)
    modules = sorted(path.name.partition(".")[0] for path in (ROOT / "alexkern").glob("_*.so")) if installed else []
    return "; ".join((*modules, *reasons))


def verify(folder: Path, limit: float) -> Sequence[str]:
    """What hangs in it leaves the others time."""
    return ("-m", "alexkern", "verify", "--json", f"--limit={min(60, max(10, limit / 5)):.0f}")


def verified(folder: Path) -> str:
    """What is right and what is not; the record, which lies among the user's, is copied to the others."""
    found = json.loads(text(folder / OUTPUT) or "null")
    if found is None:
        return ""
    shutil.copy(found["record"], folder)
    rows = [f"{row['operator']} on {row['backend']}: {line}" for row in found["rows"] for line in row["failures"]]
    probes = [f"{one['what']}: {one['reason']}" for one in found["probes"] if one["passed"] is False]
    right = sum(row["passed"] for row in found["rows"])
    wrong = [*probes, *rows]
    return f"{right} right, {len(wrong)} wrong" + "".join(f"; {line}" for line in wrong)


def gpu_tests(folder: Path, limit: float) -> Sequence[str]:
    """In one process, and nothing collected that has none."""
    files = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py"))
             if "mark.gpu" in text(path)]  # fmt: skip
    return (*PYTEST, "-m", "gpu", *(name for name in files if name != SANITIZERS), "--deselect", VERIFIES)


def tested(folder: Path) -> str:
    """pytest's last line."""
    found: list[str] = re.findall(r"^=+ (.* in [\d.]+s.*?) =+$", said(folder), re.M)
    return found[-1] if found else ""


def bench(folder: Path, limit: float) -> Sequence[str]:
    """It aims at less than its limit, for it leaves no row out."""
    return ("-m", "alexkern", "bench", "--record", str(folder), f"--seconds={0.7 * limit:.0f}")


def benched(folder: Path) -> str:
    """The verdicts of the record's page, and pytest's last line; nothing without a record."""
    verdicts = re.findall(r"^- ((?:whole networks|operators): .*)", text(folder / "README.md"), re.M)
    return "; ".join((*verdicts, tested(folder))) if verdicts else ""


def tune(folder: Path, limit: float) -> Sequence[str]:
    return ("-m", "alexkern", "tune")


def tuned(folder: Path) -> str:
    """How many choices the table has, and how many of them are not the default."""
    tables = [json.loads(text(path)) for path in folder.glob("*.json")]
    entries = [entry for one in tables for entry in one["entries"]]
    better = sum(entry["microseconds"] < entry["default_microseconds"] for entry in entries)
    return f"{len(entries)} choices, {better} of them faster than the default" if entries else ""


def sanitize(folder: Path, limit: float) -> Sequence[str]:
    return (*PYTEST, SANITIZERS)


def profile(folder: Path, limit: float) -> Sequence[str]:
    return ("-m", "alexkern.tools.worst", str(folder.parent / "bench"), "--out", str(folder))


def conform(folder: Path, limit: float) -> Sequence[str]:
    return (*PYTEST, "tests/conformance")


def lacking(*modules: str) -> Callable[[dict[str, str]], str | None]:
    """Whether a stage lacks a module of Python."""

    def reason(statuses: dict[str, str]) -> str | None:
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    return reason


def no_gpu(statuses: dict[str, str]) -> str | None:
    return None if gpus() else "no GPU: nvidia-smi shows none"


def no_sanitizer(statuses: dict[str, str]) -> str | None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"))
    return None if shutil.which("compute-sanitizer", path=path) else "compute-sanitizer is not installed"


def no_need(statuses: dict[str, str]) -> str | None:
    return None if statuses["build"] in ("failed", "limit") else "the build did not fail"


def no_record(statuses: dict[str, str]) -> str | None:
    return None if statuses["bench"] in ("passed", "partial", "failed") else "the bench left no record"


def any_of(*reasons: Callable[[dict[str, str]], str | None]) -> Callable[[dict[str, str]], str | None]:
    return lambda statuses: next((why for reason in reasons if (why := reason(statuses)) is not None), None)


STAGES = (
    Stage("build", 0.5, build, built, lacking("pip", "setuptools"), always=True),
    # A compiler that fails ends the install, and Triton's kernels are worth the rest of the time.
    Stage("without-cuda", 0.3, build, built, no_need, lambda folder: {"ALEXKERN_SKIP_CUDA": "1"}),
    Stage("verify", 0.4, verify, verified, lacking("torch"), json=True),
    Stage("tests", 0.3, gpu_tests, tested, any_of(no_gpu, lacking("pytest"))),
    Stage("bench", 0.5, bench, benched, lacking("pytest", "pytest_benchmark"), open_ended=True),
    Stage("tune", 0.4, tune, tuned, any_of(no_gpu, lacking("triton")),
          lambda folder: {"ALEXKERN_TUNED": str(folder)}, open_ended=True),
    Stage("sanitizers", 0.5, sanitize, tested, any_of(no_gpu, no_sanitizer, lacking("pytest")), open_ended=True),
    Stage("profiles", 0.6, profile, tail, no_record, open_ended=True),
    Stage("conformance", 1.0, conform, tested, any_of(no_gpu, lacking("pytest")), open_ended=True),
)  # fmt: skip


@functools.cache
def gpus() -> tuple[str, ...]:
    """Name, driver and compute capability of each, as nvidia-smi shows them."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(done.stdout.splitlines()) if done.returncode == 0 else ()


def identity() -> dict[str, str]:
    """What a run's results are of: those of another are not gone on with."""
    digest = hashlib.sha256()
    for path in (path for name in SOURCES for path in (ROOT / name, *sorted((ROOT / name).rglob("*")))):
        if path.suffix in SUFFIXES and path.is_file():
            digest.update(b"\0%s\0%s" % (path.relative_to(ROOT).as_posix().encode(), path.read_bytes()))
    packages = {name: _version(name) for name in ("torch", "triton", "numpy")}
    return {"sources": digest.hexdigest()[:16], "GPU": "; ".join(gpus()) or "none",
            "Python": platform.python_version(), **packages}  # fmt: skip


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _seconds(word: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?", word) or float(word) <= 0:
        raise argparse.ArgumentTypeError(f"wanted a number of seconds, got {word!r}")
    return float(word)


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None, stages: Sequence[Any] = STAGES) -> int:
    """Run the stages that are not done yet, and print the summary.

    0 if every stage that ran passed, 1 otherwise, 2 for bad input, 130 for Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="chip", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build", "chip"), metavar="DIR", help="default: build/chip")
    parser.add_argument("--archive", type=Path, metavar="FILE", help="default: chip.tar.gz in DIR")
    parser.add_argument("--seconds", type=_seconds, default=600.0, metavar="S", help="default: 600")
    args = parser.parse_args(argv)
    # timeout(1) ends a command by SIGTERM, and a shell's background jobs ignore SIGINT: all leave the summary.
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, _terminated)
    out = args.out.resolve()
    archive = (args.archive or out / "chip.tar.gz").resolve()
    try:
        status: int = STAGING["run"](stages, out, archive, args.seconds, identity())
    except (OSError, ValueError) as error:
        print(f"chip: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return status


if __name__ == "__main__":
    sys.exit(main())
