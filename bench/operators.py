"""Comparisons of one operator with the plain torch expression, on the layers where AlexNet uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor

from alexkern.bench.checks import check_close, check_kept
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant
from alexkern.bench.layers import LAYERS, Layers, Target
from alexkern.bench.options import Options
from alexkern.bench.ours import backends, served_by
from alexkern.bench.peers.eager import LAYOUTS as TORCH
from alexkern.bench.priority import importance
from alexkern.bench.work import Work, layer_work
from alexkern.measure.timing import Call
from alexkern.ops.registry import OPERATORS
from alexkern.tools.workloads import served

SECONDS = {"cpu": 1.0, "cuda": 0.3}  # of measuring, for one row
LEAST_S = {"cpu": 0.3, "cuda": 0.1}  # of its inputs, and of what its calls take beyond their work
PASSES = ("forward", "backward", "forward+backward")
CUDNN = "torch.cudnn_convolution_relu"


class Layer(Protocol):
    @property
    def name(self) -> str: ...
    def inputs(self, batch: int, target: Target) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class Operator:
    """An operator with its layers and expressions; expressions take the layer, then its tensors.

    `plain` is what a user writes without alexkern. An operator that drops out gives `p`, and in `reference` the
    expression without its dropout: the check reads off the output what was kept. One that compares rounded values gives
    in `reference` an expression on float32 tensors that rounds there, to the dtype it gets last, and says `rounds`.
    """

    name: str
    layers: Callable[[Layers], Sequence[Layer]]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    reference: Callable[..., Tensor] | None = None
    p: float = 0.0
    rounds: bool = False
    cudnn: Callable[..., Tensor] | None = None  # the expression around torch.cudnn_convolution_relu, forward alone

    def __call__(self, options: Options) -> Iterable[Comparison]:
        having = [model for model in LAYERS if self.layers(LAYERS[model])]
        # An operator that none of the networks asked for has is shown on those that have it.
        models = [model for model in having if model in options.models] or having
        for target in options.targets:
            for model in models:
                for layer in self.layers(LAYERS[model]):
                    for direction in PASSES:
                        yield self._comparison(model, layer, direction, options, target)

    def _comparison(self, model: str, layer: Layer, direction: str, options: Options, target: Target) -> Comparison:
        # Inputs without an image's axes have one layout only.
        images = any(tensor.dim() == 4 for tensor in layer.inputs(0, Target(torch.device("meta"), torch.float32)))
        peers = [name for name in TORCH if images or name == "torch"]
        if self.cudnn and direction == "forward" and target.device.type == "cuda":
            peers.append(CUDNN)
        compiled = [f"compiled {name}" for name in peers if name in TORCH] if options.compile_operators else []
        own = ["alexkern", *(f"alexkern {backend}" for backend in backends(target, (self.name,)))]
        batch = options.operator_batch
        return Comparison(
            kind=Kind.OPERATOR,
            section=f"{self.name}, {model}, {target.arithmetic}, batch {batch}",
            what=f"{layer.name} {direction}",
            variants=(*(Variant(name, ours=True) for name in own), *map(Variant, [*peers, *compiled])),
            setup=partial(_trial, self, layer, batch, direction, target),
            seconds=SECONDS[target.device.type],
            least_s=LEAST_S[target.device.type],
            target=target,
            work=self._work(layer, batch, direction, target),
            labels={"pass": direction, "operator": self.name, "model": model, "layer": layer.name, "batch": batch},
            priority=importance("operator", options, target, model),
            # Autograd runs a backward pass on its forward's stream, and here that has passed before any capture.
            graphs=direction != "backward",
        )

    def _work(self, layer: Layer, batch: int, direction: str, target: Target) -> Work:
        work = layer_work(self.name, layer, batch, target.dtype.itemsize, backward=direction != "forward")
        return work[1:] if direction == "backward" else work


def by_entry(name: str) -> Callable[..., Tensor]:
    """The public function on a layer's tensors, with the settings that the operator's entry reads off its modules."""
    operator = OPERATORS[name]
    settings = {
        layer: {key: value for key, value in operator.arguments(*modules).items() if not isinstance(value, Tensor)}
        for model in LAYERS
        for layer, modules in served(name, model).items()
    }
    return lambda layer, *tensors: operator.function(*tensors, **settings[layer])


def _trial(operator: Operator, layer: Layer, batch: int, direction: str, target: Target) -> Trial:
    tensors = layer.inputs(batch, target)
    plain = operator.reference or operator.plain
    rounding = (target.dtype,) if operator.rounds else ()
    expected = plain(layer, *(tensor.float() for tensor in tensors), *rounding)
    grad = torch.randn_like(expected).to(target.dtype)

    def prepare(name: str) -> Call:
        # Every contender gets its inputs in the layout that it is named after; ours is made for channels_last.
        layout = TORCH.get(name.removeprefix("compiled "), torch.channels_last)
        arguments = [laid_out(tensor, layout).requires_grad_(direction != "forward") for tensor in tensors]
        expression = _expression(operator, name)
        if direction == "forward":
            return lambda: (expression(layer, *arguments),)
        grad_output = laid_out(grad, layout)
        if direction == "forward+backward":

            def step() -> tuple[Tensor, ...]:
                output = expression(layer, *arguments)
                return output, *torch.autograd.grad(output, arguments, grad_output)

            return step
        output = expression(layer, *arguments)
        return lambda: (output, *torch.autograd.grad(output, arguments, grad_output, retain_graph=True))

    def references(scale: Tensor | float) -> list[Tensor]:
        """Where dropout has multiplied the output by `scale`."""
        if direction == "forward":
            return [expected * scale]
        arguments = [tensor.float().requires_grad_() for tensor in tensors]
        output = plain(layer, *arguments, *rounding)
        return [expected * scale, *torch.autograd.grad(output, arguments, grad.float() * scale)]

    undropped = cache(references)  # the same for every contender

    def check(name: str, result: object) -> None:
        results = [tensor.detach() for tensor in result]  # type: ignore[attr-defined]
        if operator.p:
            check_kept(results[0], expected, operator.p)
            check_close(results, references((results[0] != 0).float() / (1 - operator.p)))
        else:
            check_close(results, undropped(1.0))

    return Trial(prepare, check)


def _expression(operator: Operator, name: str) -> Callable[..., Tensor]:
    """What a contender computes a layer with."""
    own, _, backend = name.partition(" ")
    if own == "alexkern":
        if not backend:
            return operator.ours
        return lambda *args: served_by(backend, partial(operator.ours, *args))()
    if name == CUDNN:
        assert operator.cudnn is not None
        return operator.cudnn
    return torch.compile(operator.plain, dynamic=False) if name.startswith("compiled ") else operator.plain


def laid_out(tensor: Tensor, layout: torch.memory_format) -> Tensor:
    """A copy of its own, in `layout` where it has the axes for it."""
    return tensor.clone(memory_format=layout if tensor.dim() == 4 else torch.contiguous_format)
