"""Signals to a run and to all of its processes: it finishes the batch, saves, and goes on later to the same bits."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from alexkern.data import workers
from alexkern.training import checkpoint, evaluate
from alexkern.training.interrupt import StopRequest
from alexkern.training.step import Step
from support.tiny import RUN, assert_same_run, command, instead

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Eight steps of two epochs, each with one batch of validation images behind it.
BATCH, EVALUATION = (Step, "update"), (evaluate, "probabilities")


@pytest.fixture(autouse=True)
def handlers(small: None) -> Iterator[None]:
    """Python's own, whatever pytest was started by; they have to be there behind each test too."""
    defaults = {number: signal.SIG_DFL for number in STOPS} | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    found = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert found == defaults
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def at(patch: pytest.MonkeyPatch, moment: tuple[Any, str], count: int, act: Callable[[], object]) -> None:
    """Act within the count-th call of a function."""
    instead(*moment, count, lambda original, *of, **how: (act(), original(*of, **how))[1], patch.setattr)


def to_all(number: int) -> None:
    """What a terminal does to a process group, without pytest in it."""
    for child in multiprocessing.active_children():
        os.kill(child.pid, number)
    time.sleep(0.05)  # long enough for a worker to die of it
    signal.raise_signal(number)


CASES = [(number, moment, workers) for number in STOPS for moment in ("first", "middle", "evaluation", "last")
         for workers in (0, 1, 3)]  # fmt: skip
QUICK = {
    (signal.SIGINT, "first", 1),
    (signal.SIGTERM, "middle", 3),
    (signal.SIGHUP, "evaluation", 1),
    (signal.SIGTERM, "evaluation", 0),
}


@pytest.mark.parametrize(
    "number, moment, workers", [pytest.param(*c, marks=() if c in QUICK else pytest.mark.full) for c in CASES]
)
def test_a_signal_saves_and_the_run_goes_on_to_the_same_bits(
    number: int, moment: str, workers: int, run, images: Path, whole: Path, tmp_path: Path
) -> None:
    where, count, step = {
        "first": (BATCH, 1, 1), "middle": (BATCH, 6, 6), "evaluation": (EVALUATION, 1, 4), "last": (EVALUATION, 2, 8),
    }[moment]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        at(patch, where, count, lambda: to_all(number))
        status, _, errors = run(images, *RUN, "--out", tmp_path, "--workers", workers)
    assert errors == [f"alexkern train: stopped after step {step}, saved; go on with --resume"]
    assert status == 128 + number and not multiprocessing.active_children()
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint.pt", "previous.pt", "log.csv", "classes.txt"}
    again = ("--out", tmp_path, "--resume", "--workers", 0, "--device", "cpu", "--save-every", 3, "--quiet")
    assert run(images, *again) == (0, [], [])
    assert_same_run(tmp_path, whole)


def test_a_signal_to_the_process_group(images: Path, tmp_path: Path) -> None:
    process = command(
        "train", images, *RUN, "--out", tmp_path, "--workers", 2, at=f"step:5:{signal.SIGTERM:d}",
        start_new_session=True,
    )  # fmt: skip
    _, errors = process.communicate(timeout=120)
    assert errors.splitlines() == ["alexkern train: stopped after step 5, saved; go on with --resume"]
    assert process.returncode == 143
    assert checkpoint.load(tmp_path / "checkpoint.pt")["progress"]["step"] == 5
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_workers_ignore_them_however_they_are_started() -> None:
    """Those that are forked also inherit that they are held back."""
    before = {number: signal.getsignal(number) for number in STOPS}
    threads = torch.get_num_threads()
    workers.start(0)
    torch.set_num_threads(threads)
    assert {number: signal.signal(number, handler) for number, handler in before.items()} == dict.fromkeys(
        STOPS, signal.SIG_IGN
    )


def test_a_second_signal_ends_at_once_and_spares_the_checkpoint(images: Path, whole: Path, tmp_path: Path) -> None:
    """The second one comes while the first is being saved, half written."""
    moments = f"step:5:{signal.SIGHUP:d} write:3:{signal.SIGTERM:d}"
    process = command("train", images, *RUN, "--out", tmp_path, "--workers", 1, at=moments, start_new_session=True)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (-signal.SIGTERM, "")
    assert (tmp_path / "checkpoint.pt.partial").stat().st_size > 0
    assert checkpoint.load(tmp_path / "checkpoint.pt")["progress"]["step"] == 4


def test_the_same_signal_twice_at_once_is_one() -> None:
    """timeout sends to the process and to its group."""
    with StopRequest() as request:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT
        request._asked -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest() as request, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored(run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    at(monkeypatch, BATCH, 2, lambda: signal.raise_signal(signal.SIGHUP))
    status, _, errors = run(images, *RUN, "--epochs", 1, "--out", tmp_path)
    assert (status, errors) == (0, [])
    assert signal.signal(signal.SIGHUP, signal.SIG_DFL) == signal.SIG_IGN


def test_outside_the_main_thread_signals_are_left_alone(run, images: Path, tmp_path: Path, monkeypatch) -> None:
    seen = []
    at(monkeypatch, BATCH, 2, lambda: seen.append([signal.getsignal(number) for number in STOPS]))
    thread = threading.Thread(target=run, args=(images, *RUN, "--epochs", 1, "--workers", 1, "--out", tmp_path))
    thread.start()
    thread.join(120)
    assert seen == [[signal.default_int_handler, signal.SIG_DFL, signal.SIG_DFL]]
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    "moment, count, saved", [(BATCH, 5, 4), pytest.param(EVALUATION, 2, 6, marks=pytest.mark.full)]
)
def test_a_worker_that_the_system_kills(
    moment: Any, count: int, saved: int, run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill() -> None:
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        time.sleep(0.3)

    at(monkeypatch, moment, count, kill)
    status, _, errors = run(images, *RUN, "--out", tmp_path, "--workers", 1)
    assert status == 1 and len(errors) == 1
    line = r"alexkern train: a decoding process, \d+, was ended by the system \(Killed\), as where memory is short: .*"
    assert re.fullmatch(line + f"stopped after step \\d, {tmp_path}/checkpoint.pt is the last checkpoint", errors[0])
    assert checkpoint.load(tmp_path / "checkpoint.pt")["progress"]["step"] == saved
