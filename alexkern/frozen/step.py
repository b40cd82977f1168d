"""What the steps of a snapshot share: weights packed once, and ways to run the layer, of which the first serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alexkern.errors import argument_error


class Way:
    """One way to run a layer, made for it by `pack`."""

    weight: Tensor  # as this way reads it

    @classmethod
    def pack(cls, step: Any, weight: Tensor, /) -> Way | None:
        """For a step with a weight as torch has it; None where this way is not for such a layer, or not to be had."""
        raise NotImplementedError

    def serves(self, input: Tensor, /) -> bool:
        """Whether the way may be taken, and pays."""
        return True

    def __call__(self, input: Tensor, /) -> Tensor | None:
        """The step's output; None where it has to come from a later way after all."""
        raise NotImplementedError

    def plain_weight(self) -> Tensor:
        """As torch has it. Only the last way is asked."""
        return self.weight

    def describe(self) -> str:
        """For the repr, in a few words."""
        raise NotImplementedError


def onednn_serves(weight: Tensor) -> bool:
    """Whether oneDNN's operators take such weights."""
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return bool(on_cpu and (weight.dtype == torch.float32 or half))


class FrozenStep(nn.Module):
    """A layer whose weight is no parameter any more."""

    WAYS: ClassVar[Sequence[type[Way]]]  # in the order in which they are asked; the last serves everything
    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, relu: bool):
        super().__init__()
        self.bias = None if layer.bias is None else layer.bias.detach().contiguous()
        self.relu = relu
        self.pack(layer.weight.detach())
        self.eval()

    def pack(self, weight: Tensor) -> None:
        """Make the ways for a weight as torch has it."""
        self.by_onednn = onednn_serves(weight)
        self.ways = [way for kind in self.WAYS if (way := kind.pack(self, weight)) is not None]

    @property
    def weight(self) -> Tensor:
        """As the last way reads it."""
        return self.ways[-1].weight

    def run(self, input: Tensor) -> Tensor:
        """By the first way that serves."""
        for way in self.ways:
            if way.serves(input):
                value = way(input)
                if value is not None:
                    return value
        raise AssertionError("the last way serves everything")

    def check(self, input: Tensor, channels: int, dimension: int) -> None:
        """oneDNN's operators trust their arguments."""
        if input.dtype != self.weight.dtype or input.device != self.weight.device:
            want = f"{self.weight.dtype} on {self.weight.device}, as frozen"
            raise argument_error("freeze", "input", f"{input.dtype} on {input.device}", want)
        if input.dim() < -dimension or input.shape[dimension] != channels:
            raise argument_error("freeze", "input", f"shape {tuple(input.shape)}", f"of {channels} channels")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"ways": self.ways[-1].plain_weight()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "ways" not in state:
            raise RuntimeError("alexkern.freeze: a snapshot of another version of alexkern; freeze the model again")
        super().__setstate__(state)
        self.pack(state["ways"])

    def describe(self) -> str:
        ways = " and ".join(way.describe() for way in reversed(self.ways))
        return f"weight={str(self.weight.dtype).removeprefix('torch.')} {ways}, relu={self.relu}"
