"""What a process of test_train_distributed.py runs: in a module that a spawned process can import."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import alexkern
from alexkern.training.world import World, begin
from support.networks import small_alexnet
from support.tiny import group_threads

WORLD = 2


def model_and_images() -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(7)
    return alexkern.fuse(small_alexnet()).eval(), torch.randn(2 * WORLD, 3, 63, 63)


def worker(rank: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    begin("gloo", rank, WORLD, init_method=f"file://{folder}/rendezvous")
    model, images = model_and_images()
    parallel = DistributedDataParallel(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            model.zero_grad()
            parallel(images.chunk(WORLD)[rank].contiguous(memory_format=torch.channels_last)).square().mean().backward()
    del parallel
    if rank == 0:
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        messages = [str(warning.message) for warning in caught]
        torch.save({"gradients": gradients, "warnings": messages}, Path(folder) / "result.pt")
    World(rank, WORLD, torch.device("cpu")).leave()
    assert not group_threads()
