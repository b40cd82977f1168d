"""linear_relu_dropout: our own products where they pay, else torch's, and csrc/cuda/linear_relu_dropout around them.

Up to 16 rows of 16-bit values, whose product is bounded by reading the weight, are multiplied by a kernel of their own.
More of them go through csrc/cuda/sm90 on compute capability 9.0, ReLU and dropout in its epilogue. For the rest
torch puts linear's output where it is planned, and ReLU and dropout go over it in place.

Where elements are dropped, whatever finishes them also writes the mask, a bit for each: which let a gradient pass.
Backward masks and scales the gradient in one pass, and the products, which then read each of its values many times, are
torch's. csrc/cuda/sm90 would have to transpose the weight for the data gradient, and to leave the weight's gradient in
fp32 and read it again: 150 MB and 300 MB more than torch moves for AlexNet's fc6, whose weight has 75 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alexkern.backends.cuda import launch, sm90
from alexkern.backends.cuda.layout import packed
from alexkern.backends.cuda.wide import Wide
from alexkern.backends.torch.dropout import scale
from alexkern.backends.torch.philox import threshold
from alexkern.plan import Spec, contiguous_strides, empty, like, linear_relu_dropout_output, packed_bits

WIDE = (Wide(r"(forward|backward|sum)_kernel<\w+, \w+>"),)

FEW_ROWS = 16
VALUES_PER_COPY = 8  # of 16 bits


def forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, p: float, save_mask: bool
) -> tuple[Tensor, Tensor | None]:
    output = empty(linear_relu_dropout_output(input, weight), input.device)
    mask = empty(packed_bits(output.numel()), input.device) if save_mask and seed is not None else None
    if output.numel() > 0:
        _fill(output, mask, input, weight, bias, seed, p)
    return output, mask


def _fill(
    output: Tensor,
    mask: Tensor | None,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    p: float,
) -> None:
    K, C = weight.shape  # out_features, in_features
    M = output.shape[:-1].numel()
    rows, x = output.view(M, K), input.reshape(M, C)
    if _is_few_rows(x, weight):
        bias = None if bias is None else bias.contiguous()
        launch(
            "linear_relu_dropout_few_rows",
            output,
            x.data_ptr(),
            x.stride(0),
            weight.data_ptr(),
            weight.stride(0),
            0 if bias is None else bias.data_ptr(),
            output.data_ptr(),
            M,
            K,
            C,
        )
        return _finish(output, mask, seed, p)
    plan = sm90.plan_linear(x, weight, rows)
    if plan is not None:
        return _on_sm90(plan, x, weight, bias, rows, mask, seed, p)
    with torch.no_grad():  # torch refuses out= beside a tensor that requires a gradient, wanted or not
        if bias is None:
            torch.mm(x, weight.t(), out=rows)
        else:
            torch.addmm(bias, x, weight.t(), out=rows)
    _finish(output, mask, seed, p)


def _on_sm90(
    plan: sm90.Plan,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    p: float,
) -> None:
    """rows (M, K) = relu(x @ weight.t() + bias), dropped."""
    images = packed(x[:, :, None, None], 1)
    bias = None if bias is None else bias.contiguous()
    partials = sm90.convolve(plan, images, weight, bias, rows, mask, seed, threshold(p), scale(p))
    if partials is None:
        return
    launch(
        "linear_relu_dropout_sum",
        rows,
        partials.data_ptr(),
        len(partials),
        0 if bias is None else bias.data_ptr(),
        rows.data_ptr(),
        rows.numel(),
        rows.shape[1],
        0 if mask is None else mask.data_ptr(),
        0 if seed is None else seed.data_ptr(),
        threshold(p),
        scale(p),
    )


def _finish(output: Tensor, mask: Tensor | None, seed: Tensor | None, p: float) -> None:
    """ReLU and dropout, in place."""
    launch(
        "linear_relu_dropout_forward",
        output,
        output.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        0 if seed is None else seed.data_ptr(),
        output.numel(),
        threshold(p),
        scale(p),
    )


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
    K, C = weight.shape  # out_features, in_features
    shape = tuple(grad.shape)
    masked = empty(Spec(shape, contiguous_strides(shape), grad.dtype), grad.device)
    grad, mask = grad.contiguous(), mask.contiguous()
    launch(
        "linear_relu_dropout_backward",
        grad,
        grad.data_ptr(),
        mask.data_ptr() if seed is None else 0,
        0 if seed is None else mask.data_ptr(),
        masked.data_ptr(),
        masked.numel(),
        scale(p),
    )
    M = masked.shape[:-1].numel()
    rows = masked.view(M, K)
    return (
        _product(rows, weight, like(input)) if needs[0] else None,
        _product(rows.t(), input.reshape(M, C), like(weight)) if needs[1] else None,
        rows.sum(0) if needs[2] else None,
    )


def _is_few_rows(x: Tensor, weight: Tensor) -> bool:
    """Whether csrc/cuda/linear_relu_dropout/few_rows.cu multiplies these: rows in whole copies of 16 bytes."""
    if x.dtype == torch.float32 or not 0 < len(x) <= FEW_ROWS or x.shape[1] % VALUES_PER_COPY != 0:
        return False
    return x.shape[1] > 0 and all(
        rows.stride(1) == 1 and rows.stride(0) % VALUES_PER_COPY == 0 and rows.data_ptr() % 16 == 0
        for rows in (x, weight)
    )


def _product(left: Tensor, right: Tensor, spec: Spec) -> Tensor:
    """left @ right as `spec` plans it, in place where that is dense rows."""
    result = empty(spec, left.device)
    if result.stride() == contiguous_strides(spec.shape):
        torch.mm(left, right, out=result.view(len(left), right.shape[1]))
        return result
    return result.copy_(torch.mm(left, right).view(spec.shape))
