"""The processes that share a run: one, or those that torchrun started."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from alexkern.console import first_line
from alexkern.training.errors import TrainingError


@dataclass(frozen=True)
class World:
    """This process's number, how many there are, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks to the terminal."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over all processes."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def most(self, values: Sequence[int]) -> list[int]:
        """Each value's largest in any process. No GPU is waited for."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return largest.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """End the process group, and with the model that uses it its threads: one that met the interpreter's own end
        would abort the process."""
        if distributed.is_initialized():
            distributed.destroy_process_group()
            gc.collect()


def join(device: str | None) -> World:
    """Take part in torchrun's processes, or be the only one. NCCL between GPUs, gloo between CPUs.

    Raises:
        TrainingError: a device that is not here.
    """
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if size > 1 and name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
    try:
        here = torch.device(name)
        torch.zeros(1, device=here).item()
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"--device {name}: {first_line(error)}") from None
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if size > 1:
        backend = "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo"
        begin(backend, rank, size)
    return World(rank, size, here)


def begin(backend: str, rank: int, size: int, init_method: str | None = None) -> None:
    """Begin the process group that `World.leave` ends."""
    # Its functions have the group of the moment that it is imported at as a default, which would keep that group and
    # its threads to the interpreter's end. DistributedDataParallel imports it: it has to be before there is a group.
    import torch.distributed.nn.functional  # noqa: F401

    distributed.init_process_group(
        backend, init_method=init_method, rank=rank, world_size=size, timeout=timedelta(minutes=30)
    )


def average_gradients_of(model: torch.nn.Module, world: World) -> torch.nn.Module:
    """The model, wrapped where several processes train it."""
    if world.size == 1:
        return model
    devices = [world.device.index] if world.device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def generator_state(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators that this process draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_generators(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
