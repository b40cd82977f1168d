"""One run a folder: the second one ends with one line, and what a dead process left is taken over."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import pytest

from alexkern.training import TrainingError
from alexkern.training.lock import NAME, RunLock
from support.tiny import OPTIONS, one_line

HERE = socket.gethostname()


def _hold(folder: Path, pipe: Connection) -> None:
    with RunLock(folder):
        pipe.send("held")
        pipe.recv()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[BaseProcess]:
    """Another process that trains in the folder."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_a_second_run_ends_with_one_line(owner: BaseProcess, run, images: Path, tmp_path: Path) -> None:
    line = (images, *OPTIONS, "--epochs", "1", "--out", tmp_path)
    who = f"process {owner.pid} on {HERE} trains here"
    wanted = f"--out {tmp_path}: {who}; if it no longer does, remove {tmp_path}/{NAME}"
    for more in ([], ["--resume"]):
        assert one_line(run(*line, *more)) == f"alexkern train: {wanted}"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    owner.kill()
    owner.join()
    status, _, errors = run(*line)
    assert (status, errors) == (0, []) and not (tmp_path / NAME).exists()
    assert run(*line, "--resume", "none.pt")[0] == 2 and not (tmp_path / NAME).exists()


def test_a_folder_that_takes_no_files(run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / NAME).mkdir(parents=True)
    for place, reason in ((out, "is a directory"), (images / "red" / "0.png" / "run", "not a directory")):
        found = one_line(run(images, *OPTIONS, "--out", place))
        assert found == f"alexkern train: --out {place}: cannot be written to ({reason})"


def test_the_same_process_counts_too(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        with pytest.raises(TrainingError, match=f"process {os.getpid()} on {HERE}"):
            RunLock(tmp_path / ".." / tmp_path.name).__enter__()
        assert (tmp_path / NAME).exists()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text()) == {"process": os.getpid(), "host": HERE}


@pytest.mark.parametrize("text", ["", "{", '{"process": 0}', "[]", json.dumps({"process": 2**22 + 1, "host": HERE})])
def test_what_a_dead_process_left_is_taken_over(text: str, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(text)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    assert not (tmp_path / NAME).exists()


def test_another_host_keeps_its_lock(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"process": 2**22 + 1, "host": "elsewhere"}))
    with pytest.raises(TrainingError, match=f"process 4194305 on elsewhere trains here; .* remove {tmp_path}/{NAME}$"):
        RunLock(tmp_path).__enter__()
    assert "elsewhere" in (tmp_path / NAME).read_text()


def test_a_file_system_without_locks(owner: BaseProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some of networks are."""
    monkeypatch.setattr(fcntl, "lockf", mock.Mock(side_effect=OSError(37, os.strerror(37))))
    with pytest.raises(TrainingError, match=f"process {owner.pid} on"):
        RunLock(tmp_path).__enter__()
    owner.kill()
    owner.join()
    for process in (owner.pid, os.getpid()):  # the latter is a container's only process, started anew
        (tmp_path / NAME).write_text(json.dumps({"process": process, "host": HERE}))
        with RunLock(tmp_path):
            pass
        assert not (tmp_path / NAME).exists()


def test_a_lock_that_was_removed_and_taken_again_is_left_to_the_other(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / NAME).unlink()
        (tmp_path / NAME).write_text("another's")
    assert (tmp_path / NAME).read_text() == "another's"
