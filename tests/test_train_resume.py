"""Runs that end early: killed at any moment, interrupted, out of disk, diverging; and those that go on after that."""

from __future__ import annotations

import errno
import itertools
import math
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

import pytest
import torch

from alexkern.training import Settings, TrainingError, checkpoint, log
from alexkern.training.step import Step
from support.tiny import OPTIONS, RUN, assert_same_run, assert_same_weights, command, instead, one_line, write_images

# Killed


@pytest.mark.parametrize(
    "moment, saved",
    [
        ("step:6", 4),  # between two checkpoints
        ("write:2", 3),  # the second checkpoint half written, after step 4
        ("link:1", 3),  # written and flushed, the first not yet kept as the one before
        pytest.param("flush:3", 3, marks=pytest.mark.full),
        pytest.param("rename:5", 4, marks=pytest.mark.full),
        pytest.param("step:8", 6, marks=pytest.mark.full),
    ],
)
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(
    moment: str, saved: int, run, images: Path, whole: Path, tmp_path: Path
) -> None:
    process = command("train", images, *RUN, "--out", tmp_path, at=f"{moment}:{signal.SIGKILL:d}", begun=True)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    state = checkpoint.load(checkpoint.newest(tmp_path))
    assert state["progress"]["step"] == saved
    status, lines, errors = run(
        images, "--out", tmp_path, "--resume", "--workers", 0, "--device", "cpu", "--save-every", 3
    )
    assert (status, errors) == (0, [])
    assert lines[0] == f"{tmp_path}/checkpoint.pt: going on after step {saved}"
    assert_same_run(tmp_path, whole)
    assert not list(tmp_path.glob("*.partial"))


def test_a_resumed_run_can_be_made_longer(run, images: Path, tmp_path: Path) -> None:
    options = (*OPTIONS, "--schedule", "constant")
    assert run(images, *options, "--epochs", 1, "--out", tmp_path / "a")[0] == 0
    status, _, errors = run(images, "--out", tmp_path / "a", "--resume", "--epochs", 2, "--workers", 0)
    assert (status, errors) == (0, [])
    assert run(images, *options, "--out", tmp_path / "b")[0] == 0
    assert_same_weights(tmp_path / "a", tmp_path / "b")


# Checkpoints that cannot be used


@pytest.fixture
def finished(whole: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint.pt", "previous.pt", "log.csv"):
        (folder / name).write_bytes((whole / name).read_bytes())
    return folder


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint(share: float, run, images: Path, finished: Path, whole: Path) -> None:
    content = (finished / "checkpoint.pt").read_bytes()
    (finished / "checkpoint.pt").write_bytes(content[: int(share * len(content))])
    line = one_line(run(images, "--out", finished, "--resume"))
    previous = finished / "previous.pt"
    assert "not a whole checkpoint, it is cut short or damaged" in line
    assert line.endswith(f"{previous} is the one before: --resume {previous}")
    status, _, errors = run(images, "--out", finished, "--resume", previous, "--workers", 0, "--device", "cpu")
    assert (status, errors) == (0, [])
    assert_same_run(finished, whole)


def test_a_checkpoint_of_something_else(run, images: Path, finished: Path, tmp_path: Path) -> None:
    state, foreign = checkpoint.load(finished / "checkpoint.pt"), tmp_path / "foreign.pt"
    spoilt = state["model"] | {"features.0.weight": torch.zeros(4, 3, 11, 11)}
    for content, words in (
        ({"weight": torch.zeros(3)}, "not a checkpoint of alexkern train"),
        (state | {"format": "alexkern checkpoint 9"}, "not a checkpoint of alexkern train"),
        (Settings(), "not a whole checkpoint"),  # a pickle
        (state | {"model": spoilt}, "a checkpoint of another network than alexnet ("),
    ):
        torch.save(content, foreign)
        assert f"{foreign}: {words}" in one_line(run(images, "--out", finished, "--resume", foreign))


def test_a_checkpoint_of_another_run(run, images: Path, finished: Path, tmp_path: Path) -> None:
    other, fewer = write_images(tmp_path / "other", 6, ("ash", "birch")), write_images(tmp_path / "fewer", 6)
    network = "a checkpoint of another network: --model alexnet, but alexnet_2012 is asked for"
    classes = "2 classes, and the network has 3: here without 'blue' (and 2 more) and with 'ash' (and 1 more)"
    for data, options, words in (
        (images, ("--model", "alexnet_2012"), network),
        (images, ("--batch-size", 7), "--batch-size 6, but 7 is asked for"),
        (other, (), classes),
        (fewer, (), "a checkpoint of 24 training images; here are 15"),
    ):
        assert words in one_line(run(data, "--out", finished, "--resume", *options))


# A full disk


def test_a_full_disk_leaves_the_checkpoint_before(small: None, finished: Path) -> None:
    """A limit on the size of files stands in for a disk that is full halfway."""
    state = checkpoint.load(finished / "checkpoint.pt")
    before = {name: (finished / name).read_bytes() for name in ("checkpoint.pt", "previous.pt")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["checkpoint.pt"]) // 2, limits[1]))
        with pytest.raises(
            TrainingError, match=r"checkpoint.pt: cannot be saved \(.+\); .* is the one before"
        ) as caught:
            checkpoint.save(finished, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "\n" not in str(caught.value)
    assert {name: (finished / name).read_bytes() for name in before} == before
    assert sorted(path.name for path in finished.iterdir()) == ["checkpoint.pt", "log.csv", "previous.pt"]


def test_a_run_on_a_full_disk_says_so(run, images: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(28, os.strerror(28))))
    line = one_line(run(images, *OPTIONS, "--out", tmp_path), 1)
    assert line == f"alexkern train: {tmp_path}/checkpoint.pt: cannot be saved (no space left on device)"


@pytest.mark.parametrize("error", ["ENOSPC", "EROFS", "EACCES", "EIO"])
def test_a_folder_that_stops_taking_files(error: str, run, images: Path, tmp_path: Path, monkeypatch) -> None:
    """The disk is full, or the folder has become read-only, from the third checkpoint on."""
    number, calls = getattr(errno, error), itertools.count(1)

    def failing(path: Path, mode: str) -> BinaryIO:
        if next(calls) < 3:
            return open(path, mode)
        if error == "ENOSPC":
            return open("/dev/full", mode)
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(checkpoint, "open", failing, raising=False)
    line = one_line(run(images, *OPTIONS, "--out", tmp_path, "--save-every", 2), 1)
    path = tmp_path / "checkpoint.pt"
    assert line.startswith(f"alexkern train: {path}: cannot be saved (")
    assert line.endswith(f"{os.strerror(number).lower()}); {path} is the one before")
    assert checkpoint.load(path)["progress"]["step"] == 4
    files = ["checkpoint.pt", "classes.txt", "log.csv", "previous.pt"]
    assert sorted(file.name for file in tmp_path.iterdir()) == files


def test_a_log_that_cannot_be_written(run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "log.csv.partial").mkdir()
    line = one_line(run(images, *OPTIONS, "--out", tmp_path), 1)
    assert line == f"alexkern train: {tmp_path}/log.csv.partial: cannot be written (is a directory)"


# A loss that is not finite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(value: float, run, images: Path, tmp_path: Path, monkeypatch) -> None:
    def spoilt(original: Callable[..., tuple[torch.Tensor, ...]], *of: Any) -> tuple[torch.Tensor, ...]:
        loss, right = original(*of)
        return loss * value, right

    instead(Step, "new_gradients", 6, spoilt, monkeypatch.setattr)
    line = one_line(run(images, *OPTIONS, "--out", tmp_path, "--save-every", 1), 1)
    rate = 0.01 * (1 + math.cos(math.pi * 5 / 8))  # half a cosine over 8 steps
    said = f"the loss is not finite at step 6, with a learning rate of {rate:.6g}; stopped; {tmp_path}/checkpoint.pt"
    assert f"{said} is from before" in line
    state = checkpoint.load(tmp_path / "checkpoint.pt")
    assert state["progress"]["step"] == 5
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state["model"].values())


def test_weights_that_are_not_finite_are_not_saved(run, images: Path, tmp_path: Path, monkeypatch) -> None:
    """The first loss is finite, and the weights behind it are not."""
    monkeypatch.setattr(Step, "update", lambda step: step.model.features[0].weight.data.fill_(float("inf")))
    line = one_line(run(images, *OPTIONS, "--out", tmp_path, "--save-every", 1), 1)
    assert line.endswith(
        "features.0.weight is not finite after step 1, with a learning rate of 0.02; stopped, before any checkpoint"
    )
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_log_drops_what_is_done_again(tmp_path: Path) -> None:
    row = log.Row(1, 4, 24, 0.1, 1.0, 0.5, float("nan"), float("nan"), float("nan"), 1.0, 9.0, 0)
    log.begin(tmp_path / "log.csv")
    for epoch in (1, 2, 3):
        log.add(tmp_path / "log.csv", log.Row(**{**vars(row), "epoch": epoch}))
    with open(tmp_path / "log.csv", "a") as file:
        file.write("4,16,9")  # killed while writing
    log.begin(tmp_path / "log.csv", first_epoch=3)
    assert [found.epoch for found in log.read(tmp_path / "log.csv")] == [1, 2]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = dict.fromkeys(checkpoint.KEYS, 1)
    for number in range(3):
        if number == 2:
            monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(95, "Operation not supported")))
        checkpoint.save(tmp_path, state | {"progress": number})
    assert [checkpoint.load(tmp_path / name)["progress"] for name in (checkpoint.NAME, checkpoint.PREVIOUS)] == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "previous.pt"]
    assert checkpoint.newest(tmp_path) == tmp_path / "checkpoint.pt"
    (tmp_path / "checkpoint.pt").unlink()
    assert checkpoint.newest(tmp_path) == tmp_path / "previous.pt"


def test_why_a_file_cannot_be_written() -> None:
    assert checkpoint.reason(OSError(28, "No space left on device")) == "no space left on device"
    assert checkpoint.reason(OSError("odd")) == "odd" and checkpoint.reason(RuntimeError("No\nmore")) == "No"
