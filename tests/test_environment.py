"""The ALEXKERN_* variables: what each takes, what it says to anything else, and that the documents have them all."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from alexkern import _environment
from alexkern._environment import VARIABLES, check, read

ROOT = Path(__file__).resolve().parents[1]
SWITCHES = ("ALEXKERN_SKIP_CPU", "ALEXKERN_SKIP_CUDA", "ALEXKERN_REQUIRE_CUDA")
ON, OFF = ("1", "true", "YES", "On", " 1 "), ("0", "False", "no", "OFF", "", " ")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", SWITCHES)
def test_switches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(name) is False
    for text in (*ON, *OFF):
        monkeypatch.setenv(name, text)
        assert read(name) is (text in ON), text


VALUES: dict[str, dict[str, Any]] = {
    "ALEXKERN_BACKEND": {"": "auto", "Torch": "torch"},
    "ALEXKERN_DISABLE": {
        "": frozenset(),
        "cuda.conv2d_relu,triton": {"cuda.conv2d_relu", "triton"},
        " Triton.dropout, CUDA ,": {"triton.dropout", "cuda"},
    },
    "ALEXKERN_CPU_ISA": {"": None, "AVX2": "avx2", "avx512bf16": "avx512bf16"},
    "ALEXKERN_CPU_MEMORY": {"": 1024, "0": 0, " 4096 ": 4096},
    "ALEXKERN_EMULATE": {"": "", "off": "", "yes": "1", "address": "address", "Thread": "thread"},
    "ALEXKERN_EMULATE_CAPABILITY": {"": (8, 0), "9.0": (9, 0), "10.3": (10, 3)},
    "ALEXKERN_TUNED": {"/Some/Where": "/Some/Where"},
    "ALEXKERN_CUDA_ARCHS": {
        "": (),
        "80": ("80",),
        "80;90a": ("80", "90a"),
        "90a, 80": ("90a", "80"),
        "8.0;9.0+PTX": ("80", "90"),
        " 8.6 8.9  9.0a ": ("86", "89", "90a"),
        "10.0f;12.1a+PTX;100f;": ("100f", "121a"),
    },
}


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for text, value in VALUES[name].items():
        monkeypatch.setenv(name, text)
        assert read(name) == value, text
        check()


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        *((name, ("maybe", "2", "-1", "tru", "10")) for name in SWITCHES),
        ("ALEXKERN_BACKEND", ("tpu", "1", "cuda,triton")),
        ("ALEXKERN_DISABLE", ("torch", "auto", "tpu", "conv2d_relu", "cuda.", "cuda,torch.dropout", "cuda.a.b", ",")),
        ("ALEXKERN_CPU_ISA", ("sse", "avx", "1", "avx2,avx512", "bf16")),
        ("ALEXKERN_CPU_MEMORY", ("-1", "1.5", "1GiB", "none", "1234567890")),
        ("ALEXKERN_EMULATE", ("memory", "2")),
        ("ALEXKERN_EMULATE_CAPABILITY", ("7.5", "9", "sm_90", "9.0a", "-8.0", "8.0.0")),
        ("ALEXKERN_CUDA_ARCHS", ("75", "80;75", "7.5", "8", "sm_90", "Ampere", "9.0b", "8000", "80+", ";", "80|90")),
    ],
)
def test_anything_else_is_an_error_that_lists_what_is_allowed(
    name: str, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in texts:
        monkeypatch.setenv(name, text)
        for call in (lambda: read(name), check):
            with pytest.raises(ValueError) as caught:
                call()
            assert str(caught.value) == f"{name} must be {VARIABLES[name].values}, got {text!r}"


def test_what_is_listed_as_allowed_is() -> None:
    for name in ("ALEXKERN_BACKEND", "ALEXKERN_CPU_ISA", "ALEXKERN_EMULATE", *SWITCHES):
        for text in VARIABLES[name].values.removeprefix("one of ").split(", "):
            VARIABLES[name].parse(text)


def test_an_unknown_name_is_warned_of_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check()
    monkeypatch.setenv("ALEXKERN_BAKCEND", "torch")
    monkeypatch.setenv("ALEXKERN_CUDA_ARCH", "80")
    with pytest.warns(UserWarning) as caught:
        check()
    assert [str(warning.message) for warning in caught] == [
        "ALEXKERN_BAKCEND is no variable of alexkern and changes nothing; the nearest is ALEXKERN_BACKEND",
        "ALEXKERN_CUDA_ARCH is no variable of alexkern and changes nothing; the nearest is ALEXKERN_CUDA_ARCHS",
    ]


WRONG = "alexkern: ALEXKERN_BACKEND must be one of auto, cpu, cuda, triton, torch, got 'tpu'\n"


def test_only_a_command_ends_with_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ALEXKERN_BACKEND", "tpu")
    commands = ("-m", "/usr/bin/alexkern", "alexkern.exe")
    for program in (*commands, "train.py", "-c", ""):
        monkeypatch.setattr(sys, "argv", [program])
        with pytest.raises(SystemExit if program in commands else ValueError) as caught:
            _environment._check_at_import()
        assert capsys.readouterr().err == (WRONG if program in commands else "")
        assert program not in commands or caught.value.code == 2


@pytest.mark.parametrize("command", [("-m", "alexkern", "info"), ("-m", "alexkern.tools.report"), ("alexkern", "info")])
def test_a_command_with_a_wrong_value(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXKERN_BACKEND", "tpu")
    if command[0] == "alexkern":  # as pip writes it
        script = tmp_path / "alexkern"
        script.write_text("import sys\nfrom alexkern.cli import main\nsys.exit(main())\n")
        command = (str(script), *command[1:])
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", WRONG)


def test_the_document_lists_every_variable() -> None:
    lines = (ROOT / "docs/environment.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `ALEXKERN_")]
    assert rows == [[f"`{name}`", one.kind, one.values, one.does] for name, one in VARIABLES.items()]


def test_nobody_else_reads_them() -> None:
    files = [path for name in ("alexkern", "kernels", "bench") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 100
    assert not [path for path in (*files, ROOT / "setup.py") if re.search(r"(get|getenv)\(.ALEXKERN", path.read_text())]
