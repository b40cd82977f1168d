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
from alexkern.backends.cuda.layout import Packed, is_dense, workspace
from alexkern.cost import sm90 as model
from alexkern.cost.chips import CHIPS, Chip, here
from alexkern.cost.sm90 import Choice
from alexkern.geometry import Geometry

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
    """How a product is served: as that of `geometry`, into the output itself or, not `direct`, into fp32 sums."""

    device: Device
    geometry: Geometry
    transposed: bool
    direct: bool
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


def plan(images: Packed, output: Tensor, geometry: Geometry, transposed: bool) -> Plan | None:
    """How output = relu(convolution + bias) is served, or, `transposed`, output = the data gradient of one."""
    device = device_of(output)
    if device is None:
        return None
    if transposed:
        if max(geometry.stride) > 1:
            return None
        geometry = geometry.turned()
    filters, channels = geometry.GEMM_N, images.channels
    if not _multiplies(geometry, channels):
        return None
    direct = filters % VALUES_PER_COPY == 0 and is_dense(output) and output.data_ptr() % 16 == 0
    choice = choose(device, model.convolution_work(geometry, channels, not direct), False)
    return Plan(device, geometry, transposed, direct and choice[1] == 1, choice)


def convolve(
    plan: Plan,
    images: Packed,
    filters: Tensor,
    bias: Tensor | None,
    output: Tensor,
    mask: Tensor | None = None,
    seed: Tensor | None = None,
    limit: int = 0,
    scale: float = 1.0,
) -> Tensor | None:
    """Fill the output as planned; or return sums (splits, N, P, Q, groups, K) that are still to be reduced into it.

    `seed`: and drop, by csrc/cuda/philox.cuh's `limit` and `scale`, what is not returned as sums; `mask` is filled too.
    """
    of = plan.geometry
    partials = None if plan.direct else workspace((plan.choice[1], of.N, of.P, of.Q, of.K), output, torch.float32)
    launch(
        "sm90_convolve",
        output,
        of,
        plan.transposed,
        images.memory.data_ptr(),
        images.channels,
        filters.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        0 if partials is None else partials.data_ptr(),
        output.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        0 if seed is None else seed.data_ptr(),
        limit,
        scale,
        plan.choice,
        plan.device.chip.num_sms,
    )
    return partials


def plan_linear(x: Tensor, weight: Tensor, output: Tensor) -> Plan | None:
    """How output (M, K) = linear(x (M, C), weight (K, C)) is served; x may have any strides. Samples are images."""
    device = device_of(output)
    (M, C), K = x.shape, len(weight)
    if device is None or not 0 < M <= MOST_ROWS or C == 0 or C % VALUES_PER_COPY != 0 or K % VALUES_PER_COPY != 0:
        return None
    if not weight.is_contiguous() or weight.data_ptr() % 16 != 0 or output.data_ptr() % 16 != 0:
        return None
    choice = choose_linear(device, M, K, C)
    pixels = Geometry(M, C, 1, 1, K, 1, 1, (1, 1), (0, 0), (1, 1), 1)
    return Plan(device, pixels, False, choice[1] == 1, choice)


def weight_gradient(grad: Packed, images: Packed, geometry: Geometry) -> Tensor | None:
    """Sums (splits, K, R, S, C) of the gradient, C padded as in `images`."""
    device, channels = device_of(grad.memory), images.channels
    if device is None or not _gathers(geometry, channels):
        return None
    choice = choose(device, model.weight_work(geometry, channels), True)
    shape = (choice[1], geometry.K, geometry.R, geometry.S, channels)
    partials = workspace(shape, grad.memory, torch.float32)
    launch(
        "sm90_weight_gradient",
        grad.memory,
        geometry,
        images.memory.data_ptr(),
        channels,
        grad.memory.data_ptr(),
        grad.channels,
        partials.data_ptr(),
        choice,
        device.chip.num_sms,
    )
    return partials


def serves(input: Tensor, geometry: Geometry) -> bool:
    """Whether a convolution of one group and its weight gradient are served here, over images made of `input`."""
    return device_of(input) is not None and _gathers(geometry, geometry.C)


def convolves(input: Tensor, geometry: Geometry, channels: int) -> bool:
    """Whether `plan` serves a convolution over images made of `input`, so many channels of a group."""
    return device_of(input) is not None and _multiplies(geometry, channels)


@lru_cache(maxsize=1024)
def _multiplies(geometry: Geometry, channels: int) -> bool:
    """Whether there is a product for these filters: their sums are stored in pairs, and no step may overrun a group."""
    overruns = geometry.groups > 1 and channels % model.block_k_of(channels) != 0
    return geometry.GEMM_N % 2 == 0 and not overruns and _gathers(geometry, channels)


@lru_cache(maxsize=1024)
def _gathers(geometry: Geometry, channels: int) -> bool:
    """Whether TMA's im2col mode can gather the inputs of these outputs, so many channels of a group."""
    N, _, H, W, _, R, S, *pairs, _ = geometry
    P, Q = geometry.P, geometry.Q
    if channels % VALUES_PER_COPY != 0 or not 0 < N * P * Q <= MOST_ROWS:
        return False
    for size, outputs, taps, stride, padding, dilation in zip((H, W), (P, Q), (R, S), *pairs, strict=True):
        last = (outputs - 1) * stride - padding - (size - 1)  # the last output's first tap, from the image's end
        if size == 0 or -padding not in CORNERS or last not in CORNERS:
            return False
        if stride > MOST_STRIDE or (taps - 1) * dilation > MOST_OFFSET:
            return False
    return True


def choose(device: Device, work: model.Work, weight_gradient: bool) -> Choice:
    return model.choose(work, device.chip, weight_gradient)


@lru_cache(maxsize=1024)
def choose_linear(device: Device, samples: int, features: int, channels: int) -> Choice:
    """For a linear layer."""
    return model.choose(model.linear_work(samples, features, channels), device.chip)
