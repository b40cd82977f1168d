"""What the comparison of whole networks asks of a competitor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from alexkern.optional import PEERS, why_missing


class Peer(ABC):
    """One way to run a network that somebody built of torch's own modules, in its best layout and with its best
    settings."""

    name: str
    ours: bool = False
    defaults: tuple[str, ...] = ("cpu", "cuda")  # the kinds of device where a run that names no peers has it
    trains: bool = False  # the prepared call can be differentiated
    restless: bool = False  # its threads go on spinning after a call
    models: tuple[str, ...] | None = None  # the networks that it has; None: any
    devices: str | None = None  # the kind of device that it runs on, "cpu" or "cuda"; None: both
    packages: tuple[str, ...] = ()  # what has to be importable
    install: str = PEERS  # how to install them
    cost: int = 0  # of preparing it: 1 where it joins at the main batches only, 2 at the headline's alone (options.py)
    prepare_s: float = 0.0  # of preparing it, about, in seconds; it is not begun where less is left

    def missing(self) -> str | None:
        """Why this peer cannot run here and what to install, or None where it can."""
        reasons = (why_missing(package, self.install) for package in self.packages)
        return next((reason for reason in reasons if reason), None)

    @abstractmethod
    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], Tensor]:
        """A call that runs `model` on `example` (N, 3, H, W) and returns its output.

        In training mode the call is differentiable to the parameters of `model` itself; in evaluation mode it records
        no gradient. The peer owns `model` and may change its layout and that of `example`, outside the time measured.
        """


def bound(forward: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[], Tensor]:
    """`forward` on `example`, without recording gradients where the model was asked for none."""
    training = getattr(forward, "training", False)

    def call() -> Tensor:
        with torch.inference_mode(not training):
            return forward(example)

    return call
