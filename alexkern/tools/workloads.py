"""Every call that the AlexNets make of the operators: what is compiled ahead of time and what `alexkern tune` tunes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.arithmetic import ARITHMETIC
from alexkern.bench.layers import LAYERS, Modules, Target, runs
from alexkern.ops.operator import Operator
from alexkern.ops.registry import OPERATORS

FORWARD, TRAINING, BACKWARD = "forward", "training forward", "backward"
Call = Callable[[], Any]
META = torch.device("meta")


@dataclass(frozen=True)
class Workload:
    """One operator on one layer, in one of ARITHMETIC; images are in channels_last memory."""

    operator: str
    model: str
    layer: str
    batch: int
    arithmetic: str

    def __str__(self) -> str:
        return f"{self.operator} {self.model} {self.layer} {self.arithmetic} batch {self.batch}"

    def calls(self, device: torch.device, backend: str = "triton") -> dict[str, Call]:
        """The operator's Triton calls by name, or those of another backend.

        Arguments are drawn once, or only described where the device is meta.
        A pooling operator's forward pass differs in training, where it keeps offsets. Backward asks for all gradients.
        """
        items = served(self.operator, self.model).items()
        layer, modules = next((layer, modules) for layer, modules in items if layer.name == self.layer)
        tensors = layer.inputs(self.batch, Target(device, ARITHMETIC[self.arithmetic][0]))
        images = [
            tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor for tensor in tensors
        ]
        definition = OPERATORS[self.operator]
        seeds = [torch.zeros(2, dtype=torch.int64, device=device)] * (definition.num_tensors - len(images))
        args = (*images, *seeds, *_parameters(definition, layer, modules))
        kernels = dispatch.implementation(backend, self.operator)
        calls: dict[str, Call] = {FORWARD: partial(kernels.forward, *args)}
        training = definition.training(args)
        if definition.has_offsets:
            calls[TRAINING] = partial(kernels.forward, *training)
        outputs = kernels.forward(*training)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        saved, params = definition.save(training, outputs)
        needs = (True,) * definition.num_differentiable
        grad = torch.empty_like(outputs[0]).normal_()
        calls[BACKWARD] = partial(kernels.backward, grad, *saved, *params, needs)
        return calls


def workloads(
    models: Iterable[str],
    arithmetics: Iterable[str],
    batches: Iterable[int],
    operators: Iterable[str] = OPERATORS,
    only: Iterable[str] | None = None,
) -> Iterator[Workload]:
    """All of them, operator by operator; a layer that two models share in every number comes once.

    `only` names the layers wanted; default: all. tf32 is for the operators that multiply matrices.
    """
    models, arithmetics, batches = tuple(models), tuple(arithmetics), tuple(batches)
    for operator in operators:
        seen = set()
        for model in models:
            for layer in layers(operator, model):
                if layer in seen or (only is not None and layer.name not in only):
                    continue
                seen.add(layer)
                for batch in batches:
                    for arithmetic in arithmetics:
                        if arithmetic != "tf32" or OPERATORS[operator].multiplies:
                            yield Workload(operator, model, layer.name, batch, arithmetic)


def layers(operator: str, model: str) -> tuple[Any, ...]:
    """The layers of a model that an operator serves."""
    return tuple(served(operator, model))


def having(backend: str, operators: Iterable[str]) -> list[str]:
    """The operators that a backend has; for each of the others there is a line on stderr."""
    absent = {operator: dispatch.absent(backend, operator) for operator in operators}
    for operator, reason in absent.items():
        if reason is not None:
            print(f"{backend}.{operator}: {reason}", file=sys.stderr)
    return [operator for operator, reason in absent.items() if reason is None]


def served(operator: str, model: str) -> dict[Any, Modules]:
    """Those that are one of the runs of modules that the operator stands for, with these modules."""
    definition = OPERATORS[operator]
    return {
        layer: modules
        for layer, modules in runs(LAYERS[model])
        if tuple(map(type, modules)) in definition.layers and definition.misfit(*modules) is None
    }


def _parameters(definition: Operator, layer: Any, modules: Modules) -> tuple[Any, ...]:
    """What a backend takes behind the tensors: what the public function makes of the modules' settings."""
    settings = definition.arguments(*modules).items()
    numbers = {name: value for name, value in settings if not isinstance(value, Tensor)}
    with dispatch.backend("torch"), mock.patch.object(definition, "dispatched") as dispatched:
        definition.function(*layer.inputs(1, Target(META, torch.float32)), **numbers)
    _, *args = dispatched.call_args.args  # the first is the backend's name
    return tuple(args[definition.num_tensors :])
