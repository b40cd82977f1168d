"""alexkern in the comparison of whole networks: the model as built, its inference snapshot, and each backend alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

import alexkern
from alexkern import dispatch
from alexkern.bench.layers import Target
from alexkern.bench.peers.peer import Peer, bound
from alexkern.ops.registry import OPERATORS

Result = TypeVar("Result")


def backends(target: Target, operators: Iterable[str] = OPERATORS) -> tuple[str, ...]:
    """The backends with kernels of their own that serve all of `operators` where the comparison runs.

    None where that is a CPU: there they run for tests only.
    """
    if target.device.type != "cuda":
        return ()
    names = [name for name in dispatch.PACKAGES if name != "torch"]
    return tuple(
        name
        for name in names
        if not any(dispatch.missing(name, operator, target.device.type, target.dtype) for operator in operators)
    )


def served_by(backend: str, call: Callable[[], Result]) -> Callable[[], Result]:
    """The call on one backend."""

    def served() -> Result:
        with dispatch.backend(backend):
            return call()

    return served


class Alexkern(Peer):
    name = "alexkern"
    ours = True
    trains = True

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        model.to(memory_format=torch.channels_last)
        return bound(model, example.to(memory_format=torch.channels_last))


class OnBackend(Alexkern):
    """The model with every operator on the backend named, where "auto" might mix them."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.name = f"alexkern {backend}"

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        return served_by(self.backend, super().prepare(model, example))


class Frozen(Peer):
    name = "alexkern frozen"
    ours = True

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        example = example.to(memory_format=torch.channels_last)
        return bound(alexkern.freeze(model.to(memory_format=torch.channels_last), example), example)


def contenders(target: Target) -> tuple[Peer, ...]:
    """Ours, as a user gets it first."""
    return Alexkern(), Frozen(), *map(OnBackend, backends(target))
