"""The steps of a snapshot: children that run at once, by weights packed of theirs, in the first way that serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from alexkern import dispatch
from alexkern.backends.way import Way
from alexkern.errors import argument_error
from alexkern.nn import Match, folded, is_bare
from alexkern.ops.checks import FLOATING


class Step:
    """Children of a FrozenSequential, which run one by one."""

    by_image, pools = False, False  # images, each for itself; to fewer pixels

    def __init__(self, *modules: Any, why_plain: str = ""):
        self.modules, self.why_plain = modules, why_plain

    def __setstate__(self, state: object) -> None:
        """No copy has steps. Older snapshots had: modules, in place of their children."""
        raise RuntimeError("alexkern.freeze: a snapshot of another version of alexkern; freeze the model again")

    def takes(self, input: Any) -> bool:
        """Whether the step runs at once, in place of its children."""
        return False

    def gains(self, input: Tensor) -> int:
        """The multiply-adds, if there are any, of a step that saves more time than it costs over torch's own calls, on
        a CPU; 0 of another."""
        return 0

    def one_by_one(self, input: Any) -> Any:
        for module in self.modules:
            input = module(input)
        return input

    def serving(self, like: Tensor) -> tuple[str, str, str]:
        """For a report: operator and backend, of tensors like this one, and why there is none."""
        return "", "", self.why_plain


class Run(Step):
    """Children that run at once where no gradient is wanted."""

    def __init__(self, *modules: Any, why_plain: str = ""):
        super().__init__(*modules, why_plain=why_plain)
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
        self.name, self.gains = found.operator.name, found.gains  # type: ignore[method-assign]
        self.pools = type(found.modules[0]) is nn.MaxPool2d
        self.by_image = self.pools or type(found.modules[0]) is nn.LocalResponseNorm
        arguments = found.operator.arguments(*found.modules)
        self.call: Callable[[Tensor], Tensor] = partial(found.operator.function, **arguments)

    def takes(self, input: Any) -> bool:
        return super().takes(input) and input.dtype in FLOATING

    def __call__(self, input: Tensor) -> Tensor:
        return self.call(input)

    def serving(self, like: Tensor) -> tuple[str, str, str]:
        return self.name, dispatch.resolve_name(self.name, next(self.modules[0].parameters(), like)), ""


class Passing(Run):
    """What hands on its input: a Dropout, or an AdaptiveAvgPool2d for images of the size asked for."""

    def takes(self, input: Any) -> bool:
        size = getattr(self.modules[0], "output_size", None)
        wanted = size if size is None or isinstance(size, tuple) else (size, size)
        return super().takes(input) and wanted in (None, input.shape[-2:])

    def __call__(self, input: Tensor) -> Tensor:
        return input


NORMS = {nn.Conv2d: nn.BatchNorm2d, nn.Linear: nn.BatchNorm1d}


def folds(norm: Any, layer: type) -> bool:
    """Whether a module behind a layer of a class is a scale and a shift of its channels."""
    return type(norm) is NORMS.get(layer) and is_bare(norm) and not norm.training and norm.running_var is not None


def with_norm(layer: nn.Conv2d | nn.Linear, norm: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer with the normalisation behind it, rounded once."""
    weight, bias = layer.weight.detach(), layer.bias
    if norm is None:
        return weight, bias
    statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
    return folded(weight, bias, *statistics, norm.eps, torch.float64)


class PackedRun(Run):
    """A layer with a weight, and what follows it. found: what they are without a normalisation; None for it alone."""

    LAYER: ClassVar[str]  # the function of a layer with nothing behind it
    PLAIN: ClassVar[type[Way]]  # asked behind those of the backends, if none of these serves everything

    def __init__(self, weight: Tensor, bias: Tensor | None, found: Match | None, *modules: Any):
        super().__init__(*modules)
        self.found, self.relu = found, found is not None
        self.bias = None if bias is None else bias.detach().contiguous()
        self.ways: list[Way] = []
        for kind in (*dispatch.ways(self.LAYER), self.PLAIN):
            way = kind.pack(self, weight)
            self.ways += [] if way is None else [way]
            if way is not None and way.serves_all:
                break
        self.trusting = any(way.trusts for way in self.ways)

    @property
    def weight(self) -> Tensor:
        """As the last way reads it."""
        return self.ways[-1].weight

    def run(self, input: Tensor, *how: Any) -> Tensor:
        """By the first way that serves."""
        for way in self.ways:
            if way.serves(input, *how):
                value = way(input, *how)
                if value is not None:
                    return value
        raise AssertionError("the last way serves everything")

    def check(self, input: Tensor, channels: int, dimension: int) -> None:
        """What a way that trusts its input may count on."""
        if input.dtype != self.weight.dtype or input.device != self.weight.device:
            want = f"{self.weight.dtype} on {self.weight.device}, as frozen"
            raise argument_error("freeze", "input", f"{input.dtype} on {input.device}", want)
        if input.dim() < -dimension or input.shape[dimension] != channels:
            raise argument_error("freeze", "input", f"shape {tuple(input.shape)}", f"of {channels} channels")

    def describe(self) -> str:
        """For the repr."""
        ways = " and ".join(way.words for way in reversed(self.ways))
        return f"weight={str(self.weight.dtype).removeprefix('torch.')} {ways}, relu={self.relu}"

    def serving(self, like: Tensor) -> tuple[str, str, str]:
        operator = None if self.found is None else self.found.operator.name
        plain = "torch" if operator is None else dispatch.resolve_name(operator, self.weight)
        ways = " or ".join(plain if way.words == "plain" else way.words for way in self.ways)
        return operator or self.LAYER, ways, ""
