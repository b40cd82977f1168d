"""DistributedDataParallel: two gloo processes get one process's gradients, without a warning about strides."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing

from support.distributed_worker import WORLD, model_and_images, worker


def test_two_processes_equal_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(worker, args=(folder,), nprocs=WORLD)
        result = torch.load(Path(folder) / "result.pt")
    model, images = model_and_images()
    model(images).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(result["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6)
    assert not [message for message in result["warnings"] if "strides" in message]
