"""`torchrun -m alexkern train`: two gloo processes train as one does, on the same images, without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alexkern import cli
from alexkern.models import MODELS, read_weights
from alexkern.training import checkpoint, log
from support.tiny import OPTIONS, tiny, write_images

RUN = (*OPTIONS, "--dropout", "0", "--flip", "0.5", "--contrast", "0.3", "--save-every", "3")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    tests = str(Path(__file__).resolve().parent)
    environment = os.environ | {"PYTHONPATH": tests, "GLOO_SOCKET_IFNAME": "lo"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*launcher, "-m", "support.tiny", "train", *map(str, arguments)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


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
