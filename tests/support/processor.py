"""The instruction sets that csrc/cpu was compiled for and that this processor has, and g++ for its sources."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from alexkern.backends import cpu, extension

CSRC = Path(__file__).resolve().parents[2] / "csrc/cpu"
MISSING = cpu.missing("cpu", torch.float32)
SETS = () if extension.cpu.module is None else tuple(extension.cpu.module.isas)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
served = pytest.mark.skipif(MISSING is not None, reason=f"no cpu backend: {MISSING}")


def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fixture, whose parameters are sets: the kernels are of that one, and may run on any number of threads."""
    before, threads = cpu.native().isa(), torch.get_num_threads()
    cpu.native().use(request.param)
    yield request.param
    cpu.native().use(before)
    torch.set_num_threads(threads)


def compiled(*arguments: str | Path) -> str:
    """What g++ prints, or a skip where there is none."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not there")
    command = [compiler, "-std=c++17", f"-I{CSRC}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sanitized(sanitizer: str, program: Path, *arguments: str | Path) -> str:
    """What a program prints that such a sanitizer finds nothing in."""
    compiled("-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *arguments, "-o", program)
    done = subprocess.run([program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
