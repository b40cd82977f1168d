"""What is compiled for GPUs that are not here, where nothing can be compiled: the reason, in one line, and exit 2."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alexkern import cli
from alexkern.tools import objects, rehearsal, report

ABSENT = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
COMMANDS = {
    "bench --static": lambda: cli.main(["bench", "--static", "--backends=cuda"]),
    "native.report": lambda: report.main([]),
}


@pytest.mark.parametrize("command", ["alexkern bench --static --backends=triton", "alexkern.tools.aot"])
@pytest.mark.parametrize("interpreted", [False, True], ids=["absent", "interpreted"])
def test_without_triton(command: str, interpreted: bool) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpreted:
        pytest.importorskip("triton")
        env["TRITON_INTERPRET"] = "1"
        start, reason = ["-m", *command.split()], "TRITON_INTERPRET=1 is set"
    else:
        start, reason = ["-c", ABSENT, *command.split()], "No module named 'triton'): pip install triton"
    done = subprocess.run([sys.executable, *start], capture_output=True, text=True, env=env, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("alexkern") and reason in line


def without_nvcc(monkeypatch: pytest.MonkeyPatch, _: Path) -> str:
    monkeypatch.setattr(objects, "find_nvcc", lambda: None)
    return "nvcc was not found (looked at CUDACXX, "


def named_wrongly(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    monkeypatch.setenv("CUDACXX", str(folder / "nvcc"))
    return f"nvcc was not found: CUDACXX is {folder}/nvcc"


def failing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    (folder / "nvcc").write_text("#!/bin/sh\necho no license >&2\nexit 1\n")
    (folder / "nvcc").chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(folder / "nvcc"))
    monkeypatch.setattr(objects, "_version", objects._version.__wrapped__)
    monkeypatch.setattr(rehearsal, "load", rehearsal.load.__wrapped__)
    return "failed: no license"


def without_sources(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    monkeypatch.setattr(objects, "find_nvcc", lambda: sys.executable)
    monkeypatch.setattr(objects, "SOURCES", folder)
    return f"the kernels' sources are not at {folder}: use a checkout of alexkern"


def without_pybind11(monkeypatch: pytest.MonkeyPatch, _: Path) -> str:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pybind11" else find_spec(name, *rest)
    )
    return "pybind11 is not installed (pip install 'alexkern[dev]')"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", [without_nvcc, named_wrongly, failing, without_sources, without_pybind11])
def test_without_what_cuda_needs(
    what: Callable[[pytest.MonkeyPatch, Path], str],
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    reason = what(monkeypatch, tmp_path)
    assert COMMANDS[command]() == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("alexkern") and reason in line
