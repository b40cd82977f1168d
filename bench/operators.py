"""Comparisons of one operator with the plain torch expression, on the layers where AlexNet uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from alexkern.bench.checks import check_close, check_kept
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant
from alexkern.bench.layers import LAYERS, Layers, Target
from alexkern.bench.options import Options
from alexkern.bench.timing import Call

SECONDS = 1.5  # of measuring, for one row
TORCH = {"torch": torch.contiguous_format, "torch channels_last": torch.channels_last}


class Layer(Protocol):
    @property
    def name(self) -> str: ...
    def inputs(self, batch: int, target: Target) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Operator:
    """An operator with its layers and expressions; expressions take the layer, then its tensors.

    `plain` is what a user writes without alexkern. An operator that drops out gives `p`, and in `reference` the
    expression without its dropout: the check reads off the output what was kept.
    """

    name: str
    layers: Callable[[Layers], Sequence[Layer]]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    reference: Callable[..., Tensor] | None = None
    p: float = 0.0

    def __call__(self, options: Options) -> Iterable[Comparison]:
        having = [model for model in LAYERS if self.layers(LAYERS[model])]
        # An operator that none of the networks asked for has is shown on those that have it.
        for model in [model for model in having if model in options.models] or having:
            for layer in self.layers(LAYERS[model]):
                for backward in (False, True):
                    yield self._comparison(model, layer, backward, options)

    def _comparison(self, model: str, layer: Layer, backward: bool, options: Options) -> Comparison:
        # Inputs without an image's axes have one layout only.
        images = any(tensor.dim() == 4 for tensor in layer.inputs(0, Target(torch.device("meta"), torch.float32)))
        peers = [name for name in TORCH if images or name == "torch"]
        compiled = [f"compiled {name}" for name in peers] if options.compile_operators else []
        batch = options.operator_batch
        return Comparison(
            kind=Kind.OPERATOR,
            section=f"{self.name}, {model}, batch {batch}",
            what=f"{layer.name} {'forward+backward' if backward else 'forward'}",
            variants=(Variant("alexkern", ours=True), *map(Variant, peers), *map(Variant, compiled)),
            setup=partial(_trial, self, layer, batch, backward, options.target),
            seconds=SECONDS,
        )


def _trial(operator: Operator, layer: Layer, batch: int, backward: bool, target: Target) -> Trial:
    tensors = layer.inputs(batch, target)
    plain = operator.reference or operator.plain
    expected = plain(layer, *(tensor.float() for tensor in tensors))
    grad = torch.randn_like(expected).to(target.dtype)

    def prepare(name: str) -> Call:
        expression = operator.ours if name == "alexkern" else operator.plain
        # Every contender gets its inputs in the layout that it is named after; ours is made for channels_last.
        layout = TORCH.get(name.removeprefix("compiled "), torch.channels_last)
        if name.startswith("compiled "):
            expression = torch.compile(expression, dynamic=False)
        arguments = [laid_out(tensor, layout).requires_grad_(backward) for tensor in tensors]
        if not backward:
            return lambda: (expression(layer, *arguments),)
        grad_output = laid_out(grad, layout)

        def step() -> tuple[Tensor, ...]:
            output = expression(layer, *arguments)
            return output, *torch.autograd.grad(output, arguments, grad_output)

        return step

    def check(name: str, result: object) -> None:
        results = [tensor.detach() for tensor in result]  # type: ignore[attr-defined]
        scale = torch.ones_like(expected)
        if operator.p:
            check_kept(results[0], expected, operator.p)
            scale = (results[0] != 0).float() / (1 - operator.p)
        references = [expected * scale]
        if backward:
            arguments = [tensor.float().requires_grad_() for tensor in tensors]
            output = plain(layer, *arguments)
            references += torch.autograd.grad(output, arguments, grad.float() * scale)
        check_close(results, references)

    return Trial(prepare, check)


def laid_out(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """A copy of its own, in `layout` where it has the axes for it."""
    return tensor.clone(memory_format=layout if tensor.dim() == 4 else torch.contiguous_format)
