"""`torchrun -m alexkern train`: two gloo processes train as one does, on the same images, without a warning."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from alexkern.models import read_weights
from alexkern.training import TrainingError, checkpoint, log
from alexkern.training.errors import cause
from alexkern.training.lock import RunLock
from alexkern.training.world import World, average_gradients_of, generator_state, join, restore_generators
from support.distributed_worker import WORLD, model_and_images, worker
from support.tiny import OPTIONS, assert_same_run, command

RUN = (*OPTIONS, "--dropout", "0", "--flip", "0.5", "--contrast", "0.3", "--save-every", "3")


def start(*arguments: object, at: str = "") -> subprocess.Popen[str]:
    by = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return command("train", *arguments, at=at, by=by)


def torchrun(*arguments: object, at: str = "") -> subprocess.CompletedProcess[str]:
    process = start(*arguments, at=at)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def said(errors: str) -> list[str]:
    """Our lines among torchrun's."""
    return [line for line in errors.splitlines() if "alexkern train: " in line]


def test_two_processes_train_as_one(run, images: Path, tmp_path: Path) -> None:
    done = torchrun(images, *RUN, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert "stride" not in done.stderr and "alexkern train" not in done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("epoch ") for line in lines) == 2 and "; 2 x cpu, " in lines[0]
    assert run(images, *RUN, "--out", tmp_path / "one")[0] == 0
    two, one = (read_weights(tmp_path / name / "model.safetensors").state_dict for name in ("two", "one"))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)
    for ours, wanted in zip(*(log.read(tmp_path / name / "log.csv") for name in ("two", "one")), strict=True):
        assert (ours.epoch, ours.step, ours.images) == (wanted.epoch, wanted.step, wanted.images)
        for column in ("train_loss", "train_top1", "val_loss", "val_top1", "val_top5"):
            assert getattr(ours, column) == pytest.approx(getattr(wanted, column), rel=1e-4), column
    state = checkpoint.load(tmp_path / "two" / "checkpoint.pt")
    assert len(state["generators"]) == 2
    assert not torch.equal(state["generators"][0]["cpu"], state["generators"][1]["cpu"])
    assert run(images, "--out", tmp_path / "two", "--resume", "--workers", 0)[0] == 2


def test_a_fused_network_in_two_processes_has_the_gradients_of_one(tmp_path: Path) -> None:
    """Without a warning about strides, whose images are channels_last and whose weights are not."""
    torch.multiprocessing.spawn(worker, args=(tmp_path,), nprocs=WORLD)
    result = torch.load(tmp_path / "result.pt")
    model, images = model_and_images()
    model(images).square().mean().backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    torch.testing.assert_close(result["gradients"], wanted, rtol=1e-4, atol=1e-6)
    assert not [message for message in result["warnings"] if "strides" in message]


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


CUDA = torch.device("cuda")


@pytest.fixture
def asked_for(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch.distributed, torch.cuda and a tensor on any device are asked for."""
    asked: list[Any] = []
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(f"set {device}"))
    monkeypatch.setattr(torch, "zeros", lambda *_, device: asked.append(f"try {device}") or torch.ones(1))
    monkeypatch.setattr(distributed, "init_process_group", lambda *of, **how: asked.append((*of, how)))
    return asked


@pytest.mark.parametrize(
    ("asked", "environment", "wanted"),
    [
        (None, {}, World(0, 1, CUDA)),
        ("cpu", {}, World(0, 1, torch.device("cpu"))),
        ("cuda:1", {"LOCAL_RANK": "3"}, World(0, 1, torch.device("cuda:1"))),
        (None, {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, World(5, 8, torch.device("cuda:1"))),
        ("cuda", {"RANK": "5", "WORLD_SIZE": "8"}, World(5, 8, torch.device("cuda:5"))),
        ("cuda:2", {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, World(1, 2, torch.device("cuda:2"))),
        ("cpu", {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, World(1, 2, torch.device("cpu"))),
    ],
)
def test_a_process_takes_its_own_device(
    asked: str | None, environment: dict[str, str], wanted: World, asked_for: list[Any], monkeypatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = join(asked)
    assert found == wanted and found.leads == (wanted.rank == 0)
    on_gpu = wanted.device.type == "cuda"
    steps: list[Any] = [f"try {wanted.device}", *[f"set {wanted.device}"] * on_gpu]
    if wanted.size > 1:
        how = {"init_method": None, "rank": wanted.rank, "world_size": wanted.size}
        steps.append(("cpu:gloo,cuda:nccl" if on_gpu else "gloo", how | {"timeout": timedelta(minutes=30)}))
    assert asked_for == steps


def test_without_a_gpu_it_is_the_cpu(asked_for: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert join(None) == World(0, 1, torch.device("cpu"))
    with pytest.raises(TrainingError, match="^--device toaster: Expected one of cpu, "):
        join("toaster")


def test_what_processes_tell_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def all_reduce(tensor: torch.Tensor, operation: object = None) -> None:
        asked.append((tensor.dtype, operation))
        tensor.mul_(2)

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(
        distributed, "all_gather_object", lambda values, value: values.__setitem__(slice(None), [value] * 3)
    )
    many, one = World(1, 3, torch.device("cpu")), World(0, 1, torch.device("cpu"))
    assert many.sum((0.1, 2)) == [0.2, 4] and many.most((1, 3)) == [2, 6] and many.gather("a") == ["a"] * 3
    assert asked == [(torch.float64, None), (torch.int64, distributed.ReduceOp.MAX)]
    assert one.sum((0.1, 2)) == [0.1, 2] and one.most((1, 3)) == [1, 3] and one.gather("a") == ["a"] and len(asked) == 2


def test_gradients_of_several_processes_are_averaged_on_their_own_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model, **how: (model, how))
    model = torch.nn.Linear(1, 1)
    assert average_gradients_of(model, World(0, 1, torch.device("cuda:3"))) is model
    for device, ids in (("cuda:3", [3]), ("cpu", None)):
        wrapped = average_gradients_of(model, World(1, 2, torch.device(device)))
        assert wrapped == (model, {"device_ids": ids, "gradient_as_bucket_view": True})


def test_generators_of_a_gpu_are_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"of {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: set_to.append((state, device)))
    state = generator_state(CUDA)
    drawn = torch.rand(3)
    assert state["cuda"] == "of cuda" and generator_state(torch.device("cpu")).keys() == {"cpu"}
    for where, there in ((CUDA, state), (torch.device("cpu"), state), (CUDA, {"cpu": state["cpu"]})):
        restore_generators(there, where)
        assert torch.equal(torch.rand(3), drawn)
    assert set_to == [("of cuda", CUDA)]


def test_a_group_ends_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: ended.append("group"))
    monkeypatch.setattr("gc.collect", lambda: ended.append("garbage"))
    for there, wanted in ((False, []), (True, ["group", "garbage"])):
        monkeypatch.setattr(distributed, "is_initialized", lambda there=there: there)
        World(0, 1, CUDA).leave()
        assert ended == wanted


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. Its parent"),
         "a decoding process, 12, was ended by the system (Killed), as where memory is short: fewer --workers"),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"),
         "a decoding process, 12, 13, was ended by the system, as where memory is short: fewer --workers"),
        (torch.OutOfMemoryError("CUDA out of memory"),
         "the memory does not suffice, a smaller --batch-size needs less (CUDA out of memory)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
         "the memory does not suffice, a smaller --batch-size needs less "
         "(DefaultCPUAllocator: can't allocate memory: you tried)"),
        (distributed.DistBackendError("NCCL error"), "another process of the run is gone (NCCL error)"),
        (RuntimeError("[gloo/transport] Connection closed"),
         "another process of the run is gone ([gloo/transport] Connection closed)"),
    ],
)  # fmt: skip
def test_what_has_ended_a_step(error: RuntimeError, words: str) -> None:
    assert cause(error) == words


def test_a_fault_of_ours_is_raised() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        cause(RuntimeError("shapes cannot be multiplied"))
