"""`torchrun -m alexkern train`: two gloo processes train as one does, on the same images, without a warning."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from alexkern import cli
from alexkern.models import MODELS, read_weights
from alexkern.training import checkpoint, log
from alexkern.training.lock import RunLock
from support.tiny import OPTIONS, assert_same_run, tiny, write_images

RUN = (*OPTIONS, "--dropout", "0", "--flip", "0.5", "--contrast", "0.3", "--save-every", "3")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def start(*arguments: object, at: str = "") -> subprocess.Popen[str]:
    tests = str(Path(__file__).resolve().parent)
    environment = os.environ | {"PYTHONPATH": tests, "GLOO_SOCKET_IFNAME": "lo", "SIGNAL_AT": at}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*launcher, "-m", "support.tiny", "train", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def torchrun(*arguments: object, at: str = "") -> subprocess.CompletedProcess[str]:
    process = start(*arguments, at=at)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def said(errors: str) -> list[str]:
    """Our lines among torchrun's."""
    return [line for line in errors.splitlines() if "alexkern train: " in line]


def test_two_processes_train_as_one(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = torchrun(images, *RUN, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "stride" not in done.stderr and "alexkern train" not in done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 2 and "; 2 x cpu, " in lines[0]
    monkeypatch.setitem(MODELS, "alexnet", tiny)
    assert cli.main(["train", str(images), *RUN, "--out", str(tmp_path / "one")]) == 0
    two, one = (read_weights(tmp_path / name / "model.safetensors").state_dict for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)
    for ours, wanted in zip(*(log.read(tmp_path / name / "log.csv") for name in ("two", "one")), strict=True):
        assert (ours.epoch, ours.step, ours.images) == (wanted.epoch, wanted.step, wanted.images)
        for column in ("train_loss", "train_top1", "val_loss", "val_top1", "val_top5"):
            assert getattr(ours, column) == pytest.approx(getattr(wanted, column), rel=1e-4), column
    state = checkpoint.load(tmp_path / "two" / "checkpoint.pt")
    assert len(state["generators"]) == 2
    assert not torch.equal(state["generators"][0]["cpu"], state["generators"][1]["cpu"])
    status = cli.main(["train", str(images), "--out", str(tmp_path / "two"), "--resume", "--workers", "0"])
    assert status == 2


@pytest.mark.full
def test_two_processes_resume_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    options = (*OPTIONS, "--rotation", "5")
    assert torchrun(images, *options, "--out", tmp_path / "whole").returncode == 0
    half = tmp_path / "half"
    half.mkdir()
    (half / "checkpoint.pt").write_bytes((tmp_path / "whole" / "previous.pt").read_bytes())
    done = torchrun(images, "--out", half, "--resume", "--workers", 0, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    left, right = (read_weights(f / "model.safetensors").state_dict for f in (half, tmp_path / "whole"))
    assert all(torch.equal(tensor, right[name]) for name, tensor in left.items())


@pytest.mark.full
def test_a_batch_that_cannot_be_shared(images: Path, tmp_path: Path) -> None:
    done = torchrun(images, *OPTIONS, "--batch-size", 7, "--out", tmp_path)
    assert done.returncode != 0
    assert "alexkern train: --batch-size: wanted a multiple of the 2 processes, got 7" in done.stderr


def test_a_signal_to_one_process_stops_both_at_one_step(images: Path, tmp_path: Path) -> None:
    done = torchrun(images, *RUN, "--out", tmp_path, at=f"step:2:{signal.SIGTERM:d}")
    assert said(done.stderr) == ["alexkern train: stopped after step 2, saved; go on with --resume"], done.stderr
    assert "exitcode" in done.stderr and "143" in done.stderr
    assert checkpoint.load(tmp_path / "checkpoint.pt")["progress"]["step"] == 2


@pytest.mark.full
def test_a_signal_to_torchrun_and_on_to_the_same_bits(images: Path, tmp_path: Path) -> None:
    options = (*OPTIONS, "--rotation", "5", "--save-every", 1)
    assert torchrun(images, *options, "--out", tmp_path / "whole").returncode == 0
    process = start(images, *options, "--out", tmp_path / "half")
    deadline = time.monotonic() + 120
    while not (tmp_path / "half" / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    step = checkpoint.load(tmp_path / "half" / "checkpoint.pt")["progress"]["step"]
    assert said(errors) == [f"alexkern train: stopped after step {step}, saved; go on with --resume"]
    assert torchrun(images, "--out", tmp_path / "half", "--resume", "--workers", 0, "--device", "cpu").returncode == 0
    assert_same_run(tmp_path / "half", tmp_path / "whole")


@pytest.mark.full
@pytest.mark.parametrize("moment, words", [("loss", "the loss is not finite at step 3"), ("disk", "cannot be saved (")])
def test_what_ends_one_process_ends_both(moment: str, words: str, images: Path, tmp_path: Path) -> None:
    """A loss that is not finite in the second alone, a folder that the first alone writes to."""
    (tmp_path / "checkpoint.pt.partial").mkdir() if moment == "disk" else None
    done = torchrun(images, *RUN, "--out", tmp_path, at="spoil:3:0" if moment == "loss" else "")
    assert done.returncode != 0 and 'Traceback (most recent call last):\n  File "/' not in done.stdout
    (line,) = said(done.stderr)
    assert words in line and "RuntimeError" not in done.stderr


@pytest.mark.full
def test_a_folder_in_use(images: Path, tmp_path: Path) -> None:
    with RunLock(tmp_path):
        done = torchrun(images, *RUN, "--out", tmp_path)
    assert done.returncode != 0 and len(said(done.stderr)) == 1
    assert f"process {os.getpid()} on " in done.stderr and "RuntimeError" not in done.stderr
