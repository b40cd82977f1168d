"""linear_relu_dropout: dropout(relu(linear(input, weight, bias))), the classifier's hidden layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_variadic

from alexkern.errors import argument_error
from alexkern.ops import checks, seed
from alexkern.ops.autocast import autocast
from alexkern.ops.description import MATRIX, ROWS, Example
from alexkern.ops.layer import Layer
from alexkern.ops.operator import Operator
from alexkern.plan import Spec, linear_relu_dropout_output, packed_bits
from alexkern.references.linear_relu_dropout import REFERENCE


def linear_relu_dropout(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, p: float = 0.5, training: bool = True
) -> Tensor:
    """Linear layer, bias, ReLU and dropout, fused.

    ``dropout(relu(linear(input, weight, bias)), p, training)``: a hidden layer of the classifier (the paper's sections
    3.5 and 4.2; Krizhevsky, Sutskever, Hinton 2012). With training=False or p=0 it is linear and ReLU alone.

    Args:
        input: shape (*, in_features); float32, float16, bfloat16 or, on the torch backend, float64.
        weight: shape (out_features, in_features), in input's dtype.
        bias: shape (out_features,), in input's dtype, or None.
        p: probability of dropping an element of the output, 0 to 1. See :func:`dropout` for how it is decided.
        training: whether to drop at all.

    Returns:
        Contiguous tensor of shape (*, out_features).

    Saved for backward: input, weight, and a bit for each element of the output and the 16 bytes of seed and offset; or,
    where nothing is dropped, the output, as torch's ReLU saves its own. A NaN gradient at a dropped element gives 0,
    where torch gives NaN.

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) a shape, dtype, device or number that does not fit.
    """
    name = "linear_relu_dropout"
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(linear_relu_dropout, (input, weight, bias), input, weight, bias, p, training)
    if torch._C._is_any_autocast_enabled():
        checks.floating(name, "input", input)
        input, weight, bias = autocast(input, weight, bias)
    checks.operands(name, input, weight, bias)
    if weight.dim() != 2:
        raise argument_error(name, "weight", f"shape {tuple(weight.shape)}", "(out_features, in_features)")
    if input.dim() == 0 or input.shape[-1] != weight.shape[1]:
        raise argument_error(
            name, "input", f"shape {tuple(input.shape)}", f"(*, {weight.shape[1]}) for weight {tuple(weight.shape)}"
        )
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != weight.shape[0]):
        raise argument_error(name, "bias", f"shape {tuple(bias.shape)}", f"({weight.shape[0]},)")
    p = checks.probability(name, p)
    drops = training and p > 0.0
    return OPERATOR(input, weight, bias, seed.draw(input.device) if drops else None, p if drops else 0.0, False)


def read(input: Any, weight: Any, bias: Any = None) -> Layer:
    return Layer(kind=nn.Linear, _parameters={"weight": weight, "bias": bias})


class LinearReluDropout(Operator):
    name = "linear_relu_dropout"
    schema = "Tensor input, Tensor weight, Tensor? bias, Tensor? seed, float p, bool save_mask"
    backward_schema = "Tensor input, Tensor weight, Tensor mask, Tensor? seed, float p"
    layers = ((nn.Linear, nn.ReLU, nn.Dropout), (nn.Linear, nn.ReLU))
    spellings = {F.linear: read}
    reference = REFERENCE
    example = Example((ROWS, MATRIX, (16,)), (0.0,), (None, 0.0, False))

    def arguments(self, *modules: Any) -> dict[str, Any]:
        linear, _, *dropouts = modules
        drops = {"p": dropouts[0].p, "training": dropouts[0].training} if dropouts else {"p": 0.0, "training": False}
        return {"weight": linear._parameters["weight"], "bias": linear._parameters["bias"], **drops}

    def gains(self, backend: Any, images: Sequence[int], *modules: Any) -> bool:
        linear, _, *dropouts = modules
        drops = any(layer.training and layer.p for layer in dropouts)
        return drops or bool(backend.gains(linear.weight, math.prod(images[:-1])))

    def plan(self, *args: Any) -> tuple[Spec, ...]:
        input, weight, _, seed, _, save_mask = args
        output = linear_relu_dropout_output(input, weight)
        return output, packed_bits(math.prod(output.shape) if save_mask and seed is not None else 0)

    def save(self, args: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        input, weight, _, seed, p, _ = args
        if (
            seed is None
        ):  # torch's ReLU saves its output too: nobody may edit it in place. Behind a dropout anybody may.
            return (input, weight, outputs[0]), (None, p)
        return (input, weight, outputs[1], seed), (p,)


OPERATOR = LinearReluDropout()
