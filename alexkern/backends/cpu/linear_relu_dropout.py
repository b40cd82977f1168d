"""linear_relu_dropout of few rows by csrc/cpu/linear_relu_dropout, of more by torch; dropout follows in place.

What is whose, by product: crossovers.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern.backends.cpu import dropout, native
from alexkern.backends.cpu.crossovers import PRODUCTS, is_ours, served
from alexkern.backends.cpu.memory import empty
from alexkern.backends.torch import linear_relu_dropout as definition
from alexkern.backends.torch.dropout import scale
from alexkern.plan import Spec, contiguous_strides, linear_relu_dropout_output, packed_bits

Sizes = tuple[int, int, int]  # N, C, K: rows, in_features, out_features


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, save_mask: bool
) -> tuple[Tensor, Tensor | None]:
    sizes = _sizes(input, weight)
    if is_ours("forward", weight, sizes[0]):
        output = product(input, weight, bias, relu=seed is None)
    elif seed is None:
        return definition.forward(input, weight, bias, seed, p, save_mask)
    else:
        output = definition.no_view(F.linear(input, weight, bias))
    if seed is None:
        return output, None
    mask = empty(packed_bits(output.numel())) if save_mask else None
    dropout.run(output, output, mask, seed, p, relu=True)
    return output, mask


def gains(weight: Tensor, rows: int) -> bool:
    """Whether a product of so many rows is ours, or comes to lie in memory of ours."""
    if not torch.is_grad_enabled():
        return is_ours("forward", weight, rows)
    return any(weight.numel() >= one.least for product in PRODUCTS for one in served(product))


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    mask: Tensor,
    seed: Tensor | None,
    p: float,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias, those that `needs` asks for. Without a seed the output is the mask."""
    sizes = _sizes(input, weight)
    ours = [
        need and is_ours(name, weight, sizes[0])
        for need, name in zip(needs, ("input_grad", "weight_grad", "weight_grad"), strict=True)
    ]
    theirs = [need and not mine for need, mine in zip(needs, ours, strict=True)]
    found: list[Tensor | None] = [None, None, None]
    if any(theirs):
        masked = definition.masked(grad, mask, seed, p) if seed is None else dropout.masked(grad, mask, p)
        rows, inputs = definition.matrix(masked), definition.matrix(input)
        found = [
            (masked @ weight) if theirs[0] else None,
            _weight_grad(rows, inputs, weight) if theirs[1] else None,
            rows.sum(0) if theirs[2] else None,
        ]
    if any(ours):
        shapes = (tuple(input.shape), tuple(weight.shape), (sizes[2],))
        made = [_dense(shape) if mine else None for shape, mine in zip(shapes, ours, strict=True)]
        gradients(grad, input, weight, mask, 1.0 if seed is None else scale(p), seed is None, sizes, made)
        found = [mine if mine is not None else other for mine, other in zip(made, found, strict=True)]
    return found[0], found[1], found[2]


def _sizes(input: Tensor, weight: Tensor) -> Sizes:
    K, C = weight.shape
    return math.prod(input.shape[:-1]), C, K


def _weight_grad(rows: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    left = rows.t()
    if weight.dtype == torch.bfloat16:
        left = left.contiguous()  # small, and oneDNN takes twice as long where it lies the other way
    return torch.mm(left, inputs, out=_dense(tuple(weight.shape), weight.dtype))


def _dense(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return empty(Spec(shape, contiguous_strides(shape), dtype))


def _workspace(sizes: Sizes, threads: int) -> Tensor:
    return _dense((native().linear_relu_dropout_workspace(sizes, threads),))


def product(input: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool) -> Tensor:
    """Of input and a contiguous weight, with bias and ReLU."""
    sizes = _sizes(input, weight)
    output, threads = empty(linear_relu_dropout_output(input, weight)), torch.get_num_threads()
    input, bias = input.contiguous(), None if bias is None else bias.contiguous()
    workspace = _workspace(sizes, threads)
    native().linear_relu_dropout_forward(
        sizes,
        weight.dtype == torch.bfloat16,
        input.data_ptr(),
        weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        relu,
        output.data_ptr(),
        workspace.data_ptr(),
        threads,
    )
    return output


def gradients(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    mask: Tensor,
    factor: float,
    relu: bool,
    sizes: Sizes,
    made: list[Tensor | None],
) -> None:
    """Into those that are made."""
    threads = torch.get_num_threads()
    grad, input, mask = grad.contiguous(), input.contiguous(), mask.contiguous()
    workspace = _workspace(sizes, threads)
    native().linear_relu_dropout_backward(
        sizes,
        grad.data_ptr(),
        mask.data_ptr() if relu else 0,
        0 if relu else mask.data_ptr(),
        factor,
        input.data_ptr(),
        weight.data_ptr(),
        *(0 if one is None else one.data_ptr() for one in made),
        workspace.data_ptr(),
        threads,
    )
