"""alexkern in the comparison of whole networks: the model as built, its inference snapshot, and each backend alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

import alexkern
from alexkern import dispatch
from alexkern.bench.layers import Target
from alexkern.bench.peers.compile import Compile
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
    """The model as "auto" serves it or, where a backend is named, with every operator on that one."""

    name = "alexkern"
    ours = True
    trains = True

    def __init__(self, backend: str | None = None) -> None:
        self.backend = backend
        if backend is not None:
            self.name = f"{self.name} {backend}"

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        call = self.built(model.to(memory_format=torch.channels_last), example.to(memory_format=torch.channels_last))
        return call if self.backend is None else served_by(self.backend, call)

    def built(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        return bound(model, example)


class Frozen(Alexkern):
    name = "alexkern frozen"
    trains = False

    def built(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        return bound(alexkern.freeze(model, example), example)


class Compiled(Compile):
    """torch.compile of the fused model, which is to leave inductor as fast as it is alone."""

    ours = True

    def __init__(self) -> None:
        super().__init__("alexkern compiled")


def contenders(target: Target) -> tuple[Peer, ...]:
    """Ours, as a user gets it first: on a GPU "auto" may well take torch."""
    named = backends(target)
    return Alexkern(), Frozen(), *map(Alexkern, named), *map(Frozen, named)
