"""tests/mutants.py: where slips are planted, which tests they are given to, and that a file is put back."""

from __future__ import annotations

import json
import py_compile
import signal
from pathlib import Path

import mutants
import pytest


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("a.py", 'if h < 1:  # w < 2\n    x = "w < 2"\n', {"if h <= 1:  # w < 2", "if w < 1:  # w < 2"}),
        ("a.py", "def f():\n    return max(a, b - 1)\n", {"return min(a, b - 1)", "return max(a, b + 1)"}),
        ("a.cu", '    fail("h < 1");  // h < 1\n    __syncthreads();\n', {";"}),
        ("a.cu", "std::int64_t n = blockIdx.x;\n", {"std::int32_t n = blockIdx.x;", "std::int64_t n = blockIdx.y;"}),
    ],
)
def test_slips_are_planted_where_something_runs(path: str, source: str, found: set[str]) -> None:
    assert {slip.after for kind in mutants.slips(path, source).values() for slip in kind} == found


def test_a_slip_is_given_to_the_tests_that_can_see_it() -> None:
    for path, first, operator in (
        ("kernels/dropout.py", "tests/test_triton_dropout.py", "dropout and triton"),
        ("csrc/cpu/dropout/dropout.cpp", "tests/test_cpu.py", "dropout and cpu"),
        ("csrc/cuda/max_pool2d/forward.cu", "tests/test_native_conv2d_relu_max_pool2d.py", "max_pool2d and cuda"),
        ("alexkern/training/schedule.py", "tests/test_train.py", None),
    ):
        *deciding, others = mutants.runs(path)
        runs = [*deciding, others]
        assert any(first in run for run in runs), runs
        assert operator is None or deciding[-1] == ["tests/conformance", "-k", operator]
        assert ("tests/test_house.py" in deciding[-1]) is path.startswith("alexkern")
        assert "kernels" in path or not any("test_triton" in test for run in runs for test in run)


@pytest.mark.parametrize(
    ("statuses", "found"),
    [
        ((0, 0, 0), "SURVIVED"),
        ((0, 0, 5), "SURVIVED"),
        ((0, 0, 1, 0), "killed by others"),
        ((0, 1, 0), "killed by second"),
        ((0, 1, 1), "fails without it"),
        ((0, -signal.SIGKILL), "too long"),
        ((-signal.SIGALRM,), "too long"),
        ((0, 0, -signal.SIGKILL), "SURVIVED"),  # those that are surest to find it have passed
    ],
)
def test_what_becomes_of_a_slip(statuses: tuple[int, ...], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter(statuses)
    monkeypatch.setattr(mutants, "build", lambda path: True)
    monkeypatch.setattr(mutants, "runs", lambda path: [["first"], ["second"], ["others"]])
    monkeypatch.setattr(mutants, "tested", lambda *arguments, limit: (next(ends), ""))
    monkeypatch.setattr(mutants, "put_back", lambda: None)
    assert mutants.tried(mutants.Slip("a.py", 1, "", "", "", ""), 60) == found
    assert next(ends, None) is None


def test_what_a_killed_run_left_planted_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "FOLDER", tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    (tmp_path / "original.json").write_text(json.dumps(["a.py", "x = 1\n"]))
    compiled = Path(py_compile.compile(str(tmp_path / "a.py")))
    mutants.put_back()
    assert (tmp_path / "a.py").read_text() == "x = 1\n" and not compiled.exists()
    assert {*tmp_path.iterdir()} <= {tmp_path / "a.py", compiled.parent}
