"""Every call that the AlexNets make of the operators: what is compiled ahead of time and what `alexkern tune` tunes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.bench.layers import LAYERS, Target
from alexkern.ops.registry import OPERATORS

FORWARD, TRAINING, BACKWARD = "forward", "training forward", "backward"
Call = Callable[[], Any]
# What arithmetic is done in: the tensors' dtype, and how torch is told to multiply float32 matrices.
ARITHMETIC = {
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "float16": (torch.float16, "ieee"),
    "bfloat16": (torch.bfloat16, "ieee"),
}
PRODUCTS = ("conv2d_relu", "conv2d_relu_max_pool2d", "linear_relu_dropout")  # the operators that multiply matrices


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

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Within the block torch's setting for float32 products is this workload's."""
        settings: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
        before = [setting.fp32_precision for setting in settings]
        try:
            for setting in settings:
                setting.fp32_precision = ARITHMETIC[self.arithmetic][1]
            yield
        finally:
            for setting, value in zip(settings, before, strict=True):
                setting.fp32_precision = value

    def calls(self, device: torch.device, backend: str = "triton") -> dict[str, Call]:
        """The operator's Triton calls by name, or those of another backend.

        Arguments are drawn once, or only described where the device is meta.
        A pooling operator's forward pass differs in training, where it keeps offsets. Backward asks for all gradients.
        """
        layer = next(layer for layer in layers(self.operator, self.model) if layer.name == self.layer)
        tensors = layer.inputs(self.batch, Target(device, ARITHMETIC[self.arithmetic][0]))
        images = [
            tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor for tensor in tensors
        ]
        args = ARGUMENTS[self.operator](layer, *images)
        definition = OPERATORS[self.operator]
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
                        if arithmetic != "tf32" or operator in PRODUCTS:
                            yield Workload(operator, model, layer.name, batch, arithmetic)


def layers(operator: str, model: str) -> tuple[Any, ...]:
    """The layers of a model that an operator serves."""
    described = LAYERS[model]
    return {
        "conv2d_relu": described.convolutions,
        "conv2d_relu_max_pool2d": described.pooled_convolutions,
        "max_pool2d": described.poolings,
        "dropout": described.dropouts,
        "linear_relu_dropout": described.linears,
        "local_response_norm": described.normalizations,
    }[operator]


def _convolution(layer: Any, input: Tensor, weight: Tensor, bias: Tensor) -> tuple[Any, ...]:
    pairs = ((layer.stride,) * 2, (layer.padding,) * 2, (1, 1))
    return input, weight, bias, *pairs, layer.groups


def _convolution_and_pool(layer: Any, *tensors: Tensor) -> tuple[Any, ...]:
    return (*_convolution(layer, *tensors), (3, 3), (2, 2), (0, 0), False)


def _pool(layer: Any, input: Tensor) -> tuple[Any, ...]:
    return input, (3, 3), (2, 2), (0, 0), (1, 1), False, False


def _seed(device: torch.device) -> Tensor:
    return torch.zeros(2, dtype=torch.int64, device=device)


def _dropout(layer: Any, input: Tensor) -> tuple[Any, ...]:
    return input, _seed(input.device), 0.5


def _linear(layer: Any, *tensors: Tensor) -> tuple[Any, ...]:
    return (*tensors, _seed(tensors[0].device), 0.5)


def _local_response_norm(layer: Any, input: Tensor) -> tuple[Any, ...]:
    return input, layer.size, layer.alpha, layer.beta, layer.k


# What the kernels' forward takes, from a layer and its tensors.
ARGUMENTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "conv2d_relu": _convolution,
    "conv2d_relu_max_pool2d": _convolution_and_pool,
    "max_pool2d": _pool,
    "dropout": _dropout,
    "linear_relu_dropout": _linear,
    "local_response_norm": _local_response_norm,
}
