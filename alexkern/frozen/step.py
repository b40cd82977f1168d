"""The steps of a snapshot: children that run at once, by weights packed of theirs, in the first way that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alexkern.errors import argument_error
from alexkern.nn import Match
from alexkern.ops.checks import FLOATING


class Way:
    """One way to run a layer, made for it by `pack`."""

    weight: Tensor  # as this way reads it
    words: str  # for the repr

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


def onednn_serves(weight: Tensor) -> bool:
    """Whether oneDNN's operators take such weights."""
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return bool(on_cpu and (weight.dtype == torch.float32 or half))


class Step:
    """Children of a FrozenSequential, which run one by one."""

    by_image, pools = False, False  # images, each for itself; to fewer pixels

    def __init__(self, *modules: Any):
        self.modules = modules

    def takes(self, input: Any) -> bool:
        """Whether the step runs at once, in place of its children."""
        return False

    def one_by_one(self, input: Any) -> Any:
        for module in self.modules:
            input = module(input)
        return input

    def describe(self) -> str:
        """For the repr, where something was packed."""
        return ""

    def __setstate__(self, state: object) -> None:
        """No step is stored. Those that were, were modules."""
        raise RuntimeError("alexkern.freeze: a snapshot of another version of alexkern; freeze the model again")


class Run(Step):
    """Children that run at once where no gradient is wanted."""

    def __init__(self, *modules: Any):
        super().__init__(*modules)
        self.owners = [owner for module in modules for owner in (module._parameters, module._buffers) if owner]
        self.trains = any(tensor.requires_grad for tensor in tensors_of(self.owners))

    def takes(self, input: Any) -> bool:
        if type(input) is not Tensor or input.layout is not torch.strided or input.is_nested or input.is_neg():
            return False
        return not (torch.is_grad_enabled() and (self.trains or input.requires_grad))


def tensors_of(owners: Iterable[Mapping[str, Tensor | None]]) -> list[Tensor]:
    """The parameters and buffers that modules have now."""
    return [tensor for owner in owners for tensor in owner.values() if tensor is not None]


class ByOperator(Run):
    """A pooling or a normalisation by an operator of ours."""

    def __init__(self, found: Match):
        super().__init__(*found.modules)
        self.pools = type(found.modules[0]) is nn.MaxPool2d
        self.by_image = self.pools or type(found.modules[0]) is nn.LocalResponseNorm
        arguments = found.operator.arguments(*found.modules)
        self.call: Callable[[Tensor], Tensor] = partial(found.operator.function, **arguments)

    def takes(self, input: Any) -> bool:
        return super().takes(input) and input.dtype in FLOATING

    def __call__(self, input: Tensor) -> Tensor:
        return self.call(input)


class Passing(Run):
    """What hands on its input: a Dropout, or an AdaptiveAvgPool2d for images of the size asked for."""

    def takes(self, input: Any) -> bool:
        size = getattr(self.modules[0], "output_size", None)
        wanted = size if size is None or isinstance(size, tuple) else (size, size)
        return super().takes(input) and wanted in (None, input.shape[-2:])

    def __call__(self, input: Tensor) -> Tensor:
        return input


class PackedRun(Run):
    """A layer with a weight, and what follows it."""

    WAYS: ClassVar[Sequence[type[Way]]]  # in the order in which they are asked; the last serves everything

    def __init__(self, weight: Tensor, bias: Tensor | None, relu: bool, *modules: Any):
        super().__init__(*modules)
        self.bias, self.relu = None if bias is None else bias.detach().contiguous(), relu
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
        """oneDNN's operators and csrc/cpu trust their arguments."""
        if input.dtype != self.weight.dtype or input.device != self.weight.device:
            want = f"{self.weight.dtype} on {self.weight.device}, as frozen"
            raise argument_error("freeze", "input", f"{input.dtype} on {input.device}", want)
        if input.dim() < -dimension or input.shape[dimension] != channels:
            raise argument_error("freeze", "input", f"shape {tuple(input.shape)}", f"of {channels} channels")

    def describe(self) -> str:
        ways = " and ".join(way.words for way in reversed(self.ways))
        return f"weight={str(self.weight.dtype).removeprefix('torch.')} {ways}, relu={self.relu}"
