"""The products of csrc/cuda/sm90: TMA and wgmma, for 16-bit tensors on compute capability 9.0.

`plan` and `weight_gradient` return None for what these kernels do not serve: csrc/cuda/conv2d_relu does then. So does
`plan_linear`: the product is then torch's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alexkern._environment import read
from alexkern.backends import extension
from alexkern.backends.cuda import emulated, launch
from alexkern.backends.cuda.layout import Packed
from alexkern.cost import sm90 as model
from alexkern.cost.chips import CHIPS, Chip, here
from alexkern.cost.sm90 import Choice
from alexkern.geometry import Geometry
from alexkern.plan import Spec, contiguous_strides, empty

Pair = tuple[int, int]

CAPABILITY = (9, 0)  # and no other: GPUs after it have no wgmma
TARGET = "sm_90a"
VALUES_PER_COPY = 8  # TMA's strides are multiples of 16 bytes
CORNERS, MOST_OFFSET, MOST_STRIDE = range(-128, 128), 254, 8  # of TMA's im2col mode for images
MOST_ROWS = 2**31 - 2**10
EMULATED = replace(CHIPS["H200"], num_sms=2)  # so few blocks have several tiles each


class Device(NamedTuple):
    module: Any
    chip: Chip


class Plan(NamedTuple):
    """How a convolution is served: as one of `geometry`, into the output itself or, not `direct`, into fp32 sums."""

    device: Device
    geometry: Geometry
    input_size: Pair
    transposed: bool
    direct: bool
    choice: Choice


class LinearPlan(NamedTuple):
    """How a linear layer is served."""

    device: Device
    choice: Choice


def device_of(tensor: Tensor) -> Device | None:
    """Where this tensor's products run; None where these kernels do not serve its device or dtype."""
    if tensor.dtype not in (torch.float16, torch.bfloat16):
        return None
    if tensor.device.type == "cpu":
        return Device(emulated.load(), EMULATED) if read("ALEXKERN_EMULATE_CAPABILITY") == CAPABILITY else None
    return _gpu(tensor.get_device())


@lru_cache(maxsize=64)
def _gpu(index: int) -> Device | None:
    module = extension.cuda.module
    if module is None or TARGET not in module.targets:
        return None
    chip = here(index)
    return Device(module, chip) if chip.capability == CAPABILITY else None


def plan(images: Packed, output: Tensor, input_size: Pair, geometry: Geometry, transposed: bool) -> Plan | None:
    """How output = relu(convolution + bias) is served, or, `transposed`, output = the data gradient of one."""
    device = device_of(output)
    if device is None:
        return None
    if transposed:
        if max(geometry.stride) > 1:
            return None
        geometry = _turned(geometry)
    N, K, P, Q = output.shape
    filters, channels = K // geometry.groups, images.channels
    if filters % 2 != 0 or not _gathers(N, input_size, (P, Q), channels, geometry):
        return None
    depth = model.depth_of(channels)
    if geometry.groups > 1 and channels % depth != 0:  # a step would reach into the next group
        return None
    direct = filters % VALUES_PER_COPY == 0 and _is_dense(output) and output.data_ptr() % 16 == 0
    steps = geometry.kernel_size[0] * geometry.kernel_size[1] * -(-channels // depth)
    choice = _choose(device, N * P * Q, filters, steps, geometry.groups, depth, not direct, False)
    return Plan(device, geometry, input_size, transposed, direct and choice[1] == 1, choice)


def convolve(plan: Plan, images: Packed, filters: Packed, bias: Tensor | None, output: Tensor) -> Tensor | None:
    """Fill the output as planned; or return sums (splits, N, P, Q, groups, K) that are still to be reduced into it."""
    N, K, P, Q = output.shape
    partials = None if plan.direct else _sums((plan.choice[1], N, P, Q, K), output)
    launch(
        "hopper_convolve",
        output,
        images.memory.data_ptr(),
        (N, 0, *plan.input_size),
        images.channels,
        filters.memory.data_ptr(),
        K // plan.geometry.groups,
        0 if bias is None else bias.data_ptr(),
        0 if partials is None else partials.data_ptr(),
        output.data_ptr(),
        (P, Q),
        *plan.geometry,
        plan.transposed,
        not plan.transposed,
        plan.choice,
        plan.device.chip.num_sms,
    )
    return partials


def plan_linear(x: Tensor, weight: Tensor, output: Tensor) -> LinearPlan | None:
    """How output (M, K) = linear(x (M, C), weight (K, C)) is served; x may have any strides."""
    device = device_of(output)
    (M, C), K = x.shape, len(weight)
    if device is None or not 0 < M <= MOST_ROWS or C == 0 or C % VALUES_PER_COPY != 0 or K % VALUES_PER_COPY != 0:
        return None
    if not weight.is_contiguous() or weight.data_ptr() % 16 != 0 or output.data_ptr() % 16 != 0:
        return None
    return LinearPlan(device, _choose_linear(device, M, K, C))


def linear(
    plan: LinearPlan,
    x: Packed,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    seed: Tensor | None,
    limit: int,
    scale: float,
) -> Tensor | None:
    """Fill output (M, K) with linear, ReLU and dropout; or return sums (splits, M, K), none of which is done to.

    `limit` and `scale` are csrc/cuda/philox.cuh's.
    """
    M, K = output.shape
    partials = None if plan.choice[1] == 1 else _sums((plan.choice[1], M, K), output)
    launch(
        "hopper_linear",
        output,
        x.memory.data_ptr(),
        M,
        x.channels,
        weight.data_ptr(),
        K,
        0 if bias is None else bias.data_ptr(),
        0 if partials is None else partials.data_ptr(),
        output.data_ptr(),
        0 if seed is None else seed.data_ptr(),
        limit,
        scale,
        plan.choice,
        plan.device.chip.num_sms,
    )
    return partials


def weight_gradient(
    grad: Packed, images: Packed, input_size: tuple[int, ...], filters: int, output_size: Pair, geometry: Geometry
) -> Tensor | None:
    """Sums (splits, filters, R, S, C) of the gradient, C padded as in `images`; input_size is (N, C, H, W)."""
    device = device_of(grad.memory)
    N, _, H, W = input_size
    P, Q = output_size
    if device is None or not _gathers(N, (H, W), output_size, images.channels, geometry):
        return None
    (R, S), groups, channels = geometry.kernel_size, geometry.groups, images.channels
    rows, columns = filters // groups, R * S * -(-channels // model.DEPTH) * model.DEPTH
    steps = -(-N * P * Q // model.DEPTH)
    choice = _choose(device, rows, columns, steps, groups, model.DEPTH, True, True)
    partials = _sums((choice[1], filters, R, S, channels), grad.memory)
    launch(
        "hopper_weight_gradient",
        grad.memory,
        images.memory.data_ptr(),
        (N, 0, H, W),
        channels,
        grad.memory.data_ptr(),
        output_size,
        grad.channels,
        rows,
        partials.data_ptr(),
        *geometry,
        choice,
        device.chip.num_sms,
    )
    return partials


def serves(input: Tensor, size: Pair, output_size: Pair, channels: int, geometry: Geometry) -> bool:
    """Whether a convolution and its weight gradient are served here, over `size` pixels of so many channels made of
    `input`."""
    return device_of(input) is not None and _gathers(len(input), size, output_size, channels, geometry)


def _turned(geometry: Geometry) -> Geometry:
    """The data gradient of a convolution of stride 1 is one again, over the gradient, with the filters turned round."""
    vertical, horizontal = (
        dilation * (size - 1) - padding
        for size, padding, dilation in zip(geometry.kernel_size, geometry.padding, geometry.dilation, strict=True)
    )
    return geometry._replace(padding=(vertical, horizontal))


def _gathers(images: int, input_size: Pair, output_size: Pair, channels: int, geometry: Geometry) -> bool:
    """Whether TMA's im2col mode can gather the inputs of these outputs."""
    if channels % VALUES_PER_COPY != 0 or not 0 < images * output_size[0] * output_size[1] <= MOST_ROWS:
        return False
    for size, outputs, kernel, stride, padding, dilation in zip(input_size, output_size, *geometry[:4], strict=True):
        last = (outputs - 1) * stride - padding - (size - 1)  # the last output's first tap, from the image's end
        if size == 0 or -padding not in CORNERS or last not in CORNERS:
            return False
        if stride > MOST_STRIDE or (kernel - 1) * dilation > MOST_OFFSET:
            return False
    return True


def _is_dense(tensor: Tensor) -> bool:
    """Whether (N, C, H, W) lies as (N, H, W, C) without gaps."""
    _, C, H, W = tensor.shape
    wanted = (H * W * C, 1, W * C, C)
    return all(size == 1 or own == want for size, own, want in zip(tensor.shape, tensor.stride(), wanted, strict=True))


def _sums(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return empty(Spec(shape, contiguous_strides(shape), torch.float32), like.device)


@lru_cache(maxsize=1024)
def _choose(
    device: Device, rows: int, columns: int, steps: int, groups: int, depth: int, sums: bool, weight_gradient: bool
) -> Choice:
    """For `groups` products of rows x columns, `steps` of `depth` long."""
    return model.choose(model.Work(rows, columns, steps, groups, depth, sums), device.chip, weight_gradient)


@lru_cache(maxsize=1024)
def _choose_linear(device: Device, rows: int, columns: int, channels: int) -> Choice:
    """For a linear layer."""
    return model.choose(model.linear_work(rows, columns, channels), device.chip)
