"""Every command into a pipe that nobody reads any more (`alexkern info | head -1`): quiet, with exit status 141."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest
import torch

from alexkern import cli
from alexkern.commands import guarded
from alexkern.info import version
from alexkern.models import MODELS, save_weights
from support.tiny import CLASSES, OPTIONS, tiny, write_images


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data: images; net.safetensors: a network."""
    folder = tmp_path_factory.mktemp("files")
    write_images(folder / "data")
    torch.manual_seed(20120930)
    model = tiny(num_classes=3).eval()
    model.classes = CLASSES
    save_weights(model, folder / "net.safetensors")
    return folder


@contextlib.contextmanager
def closed_pipe() -> Iterator[TextIO]:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:  # its end is a flush, as is Python's
        yield stream


COMMANDS = {
    "version": ["--version"],
    "help": ["--help"],
    "info": ["info"],
    "classify": ["classify", "data", "--weights", "net.safetensors"],
    "train": ["train", "data", *OPTIONS],
    "evaluate": ["evaluate", "net.safetensors", "data", "--workers", "0"],
    "augment": ["augment", "data", "--most", "1", "--size", "32"],
    "export": ["export", "net.safetensors", "--to", "torch-export"],
    "bench": ["bench", "--report", "record"],
    "tune": ["tune"],
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_closed_stdout(
    name: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("data", "net.safetensors"):
        (tmp_path / file).symlink_to(files / file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "alexnet", tiny)
    if name in ("bench", "tune"):  # which take long, or a GPU, before they print a folder
        monkeypatch.setattr(cli.COMMANDS[name], "run", lambda args: print(tmp_path) or 0)
    with closed_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(COMMANDS[name]) == 141
    assert capsys.readouterr().err == ""
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("arguments", [["paint"], ["info", "--colour"], ["classify", "none", "--weights", "none.pth"]])
def test_a_closed_stderr(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_pipe() as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert cli.main(arguments) == 141


def test_a_program_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["info"]) == 0


def test_another_pipe_that_breaks_is_an_error() -> None:
    def run() -> int:
        with closed_pipe() as stream:
            os.write(stream.fileno(), b"to a process that is no more")
        return 0

    with pytest.raises(BrokenPipeError):
        guarded("alexkern test", run)


def shell(command: str) -> Any:
    code = f"set -o pipefail; alexkern() {{ '{sys.executable}' -m alexkern \"$@\"; }}; {command}"
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("command", ["alexkern info", "alexkern bench --help-run"])
def test_in_a_shell(command: str) -> None:
    done = shell(f"{command} | true")  # which has ended long before the command has begun
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


def test_the_first_line_in_a_shell() -> None:
    done = shell("alexkern info | head -1")
    assert done.returncode in (0, 141)  # the report may be written before head has gone
    assert done.stdout == f"alexkern    {version()}\n" and done.stderr == ""
