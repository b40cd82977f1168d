"""local_response_norm: y = x * e**-beta, e = k + alpha / size * (sum of squares over size neighbouring channels).

A thread owns a run of V neighbouring channels of one pixel and holds the run with a halo in registers, one tensor
[BLOCK] for each channel, so that window sums are plain additions without a shift between threads:

    channels innermost (NHWC), V channels of 16 bytes, V dividing C: three 128-bit loads (the run before, the run, the
        run after; the outer two come from L1) of [BLOCK, V], split into 3 * V tensors [BLOCK]; one 128-bit store.
    channels apart (NCHW), or any other C: V + 2 * halo loads of [BLOCK], one a channel, consecutive pixels in a warp.

With w = e**-beta and y = x * w the gradient is dx = dy * w - 2 * alpha * beta / size * x * sum(dy * y / e), the sum
over the channels whose window x stands in. Backward computes e again on the halo instead of storing it: it reads x and
dy once and writes dx once, as forward reads x and writes y. Sums and powers are float32, rounded once.

Windows of over MAX_HALO + 1 channels do not fit in registers: there one program takes one channel and loops over its
neighbours, and backward keeps dy * y / e in a float32 workspace.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from alexkern.cost.chips import Chip
from alexkern.kernels.config import Blocks, choose, describe, index_type
from alexkern.plan import Planes, Spec, conform, empty, in_planes, like

MAX_HALO = 8


def configure(elements: int, device: Chip) -> Blocks:
    """One run a thread, and smaller programs where the tensor would not fill the device."""
    return Blocks(128, 4) if elements >= 128 * 8 * 2 * device.num_sms else Blocks(64, 2)


@triton.jit
def power(e, beta, POWER: tl.constexpr):
    """(e**-beta, 1 / e). POWER names the exponents that square roots serve, and the parity of whole numbers."""
    if POWER == "three_quarters":
        root = tl.rsqrt(e)
        factor, inverse = root * tl.sqrt(root), root * root
    elif POWER == "fraction":  # NaN where e < 0, as pow is
        factor, inverse = tl.exp2(-beta * tl.log2(e)), 1.0 / e
    else:
        factor, inverse = tl.exp2(-beta * tl.log2(tl.abs(e))), 1.0 / e
        if POWER == "zero":
            factor = tl.zeros_like(e) + 1.0
        elif POWER == "odd":
            factor = tl.where(e < 0, -factor, factor)
    return factor, inverse


@triton.jit
def _split(run, BLOCK: tl.constexpr, V: tl.constexpr):
    """[BLOCK, V] to V tensors [BLOCK]."""
    if V == 4:
        even, odd = tl.split(tl.reshape(run, [BLOCK, 2, 2]))
        v0, v2 = tl.split(even)
        v1, v3 = tl.split(odd)
        values = (v0, v1, v2, v3)
    else:
        even, odd = tl.split(tl.reshape(run, [BLOCK, 2, 2, 2]))
        even0, even1 = tl.split(even)
        odd0, odd1 = tl.split(odd)
        v0, v4 = tl.split(even0)
        v2, v6 = tl.split(even1)
        v1, v5 = tl.split(odd0)
        v3, v7 = tl.split(odd1)
        values = (v0, v1, v2, v3, v4, v5, v6, v7)  # type: ignore[assignment]
    return values


@triton.jit
def _join(v, BLOCK: tl.constexpr, V: tl.constexpr):
    """The inverse of _split."""
    if V == 4:
        even, odd = tl.join(v[0], v[2]), tl.join(v[1], v[3])
    else:
        even = tl.join(tl.join(v[0], v[4]), tl.join(v[2], v[6]))
        odd = tl.join(tl.join(v[1], v[5]), tl.join(v[3], v[7]))
    return tl.reshape(tl.join(even, odd), [BLOCK, V])


@triton.jit
def _position(total, pixels, C, stride_n, stride_c, stride_l,
              INDEX: tl.constexpr, V: tl.constexpr, INNER: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Where each run starts, its first channel, and whether it exists: [BLOCK] each."""
    if INNER:  # runs lie one after the other in memory
        runs = C // V
        run = tl.program_id(0).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
        start, c0, inside = run.to(tl.int64) * V, run % runs * V, run < total
    else:
        blocks, groups = (pixels - 1) // BLOCK + 1, (C - 1) // V + 1  # additions might wrap
        pid = tl.program_id(0)
        pixel = (pid % blocks).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
        group, n = pid // blocks % groups, pid // (blocks * groups)
        start = n.to(tl.int64) * stride_n + group.to(tl.int64) * V * stride_c + pixel.to(tl.int64) * stride_l
        c0, inside = group.to(INDEX) * V + pixel * 0, pixel < pixels
    return start, c0, inside


@triton.jit
def _neighbourhood(pointer, c0, C, inside, stride_c,
                   HALO: tl.constexpr, V: tl.constexpr, INNER: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Channels c0 - HALO to c0 + V + HALO - 1 as float32, one [BLOCK] each; 0 where there is none."""
    values = ()
    if INNER:
        for side in tl.static_range(-1, 2):
            c = c0 + side * V
            mask = inside & (c >= 0) & (c < C)
            place = pointer[:, None] + (side * V + tl.arange(0, V))[None, :]
            values = values + _split(tl.load(place, mask=mask[:, None], other=0).to(tl.float32), BLOCK, V)
    else:
        for j in tl.static_range(-HALO, V + HALO):
            mask = inside & (c0 + j >= 0) & (c0 + j < C)
            values = values + (tl.load(pointer + j * tl.cast(stride_c, tl.int64), mask=mask, other=0).to(tl.float32),)  # type: ignore[assignment]
    return values


@triton.jit
def _energy(x, at: tl.constexpr, alpha, k, BEFORE: tl.constexpr, AFTER: tl.constexpr):
    total = x[at] * x[at]
    for i in tl.static_range(1, BEFORE + 1):
        total += x[at - i] * x[at - i]
    for i in tl.static_range(1, AFTER + 1):
        total += x[at + i] * x[at + i]
    return total * alpha + k


@triton.jit
def _store(pointer, values, c0, C, inside, stride_c,
           V: tl.constexpr, INNER: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    dtype: tl.constexpr = pointer.dtype.element_ty
    if INNER:
        tl.store(pointer[:, None] + tl.arange(0, V)[None, :], _join(values, BLOCK, V).to(dtype), mask=inside[:, None])
    else:
        for j in tl.static_range(V):
            tl.store(pointer + j * tl.cast(stride_c, tl.int64), values[j].to(dtype), mask=inside & (c0 + j < C))


@triton.jit(do_not_specialize=["total"])
def local_response_norm_forward_kernel(
    x,  # [N, C, L], dense in any order
    y,  # the same
    total,  # runs in the tensor, where INNER
    pixels,  # L
    runs,  # C / UNIT, so that the compiler sees what divides C
    stride_n, stride_c, stride_l,
    alpha,  # alpha / size
    beta, k,
    SIZE: tl.constexpr, HALO: tl.constexpr, V: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr,
    POWER: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    C = runs * UNIT
    start, c0, inside = _position(total, pixels, C, stride_n, stride_c, stride_l, INDEX, V, INNER, BLOCK)
    channels = _neighbourhood(x + start, c0, C, inside, stride_c, HALO, V, INNER, BLOCK)
    normalised = ()
    for j in tl.static_range(V):
        factor, _ = power(_energy(channels, HALO + j, alpha, k, SIZE // 2, (SIZE - 1) // 2), beta, POWER)
        normalised = normalised + (channels[HALO + j] * factor,)  # type: ignore[assignment]
    _store(y + start, normalised, c0, C, inside, stride_c, V, INNER, BLOCK)


@triton.jit(do_not_specialize=["total"])
def local_response_norm_backward_kernel(
    grad, x, input_grad,  # [N, C, L], all in one order
    total, pixels, runs,
    stride_n, stride_c, stride_l,
    alpha, beta, k,
    SIZE: tl.constexpr, HALO: tl.constexpr, V: tl.constexpr, UNIT: tl.constexpr, INNER: tl.constexpr,
    POWER: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = (SIZE - 1) // 2
    C = runs * UNIT
    start, c0, inside = _position(total, pixels, C, stride_n, stride_c, stride_l, INDEX, V, INNER, BLOCK)
    channels = _neighbourhood(x + start, c0, C, inside, stride_c, HALO, V, INNER, BLOCK)
    grads = _neighbourhood(grad + start, c0, C, inside, stride_c, HALO, V, INNER, BLOCK)
    scaled, shared = (), ()  # dy * w and dy * y / e, of the channels c0 - AFTER to c0 + V + BEFORE - 1
    for j in tl.static_range(-AFTER, V + BEFORE):
        factor, inverse = power(_energy(channels, HALO + j, alpha, k, BEFORE, AFTER), beta, POWER)
        there = (c0 + j >= 0) & (c0 + j < C)
        scaled = scaled + (grads[HALO + j] * factor,)  # type: ignore[assignment]
        shared = shared + (tl.where(there, grads[HALO + j] * factor * channels[HALO + j] * inverse, 0.0),)  # type: ignore[assignment]
    gradients = ()
    for j in tl.static_range(V):
        total = shared[j]
        for i in tl.static_range(1, SIZE):
            total += shared[j + i]
        gradients = gradients + (scaled[AFTER + j] - 2 * alpha * beta * channels[HALO + j] * total,)  # type: ignore[assignment]
    _store(input_grad + start, gradients, c0, C, inside, stride_c, V, INNER, BLOCK)


@triton.jit
def wide_window_kernel(
    x, grad,  # [N, C, L]; grad where STAGE is not "forward"
    shared,  # [N, C, L] float32: dy * y / e, written by stage "shared" and summed by stage "gradient"
    result,  # [N, C, L]: y or dx
    pixels, C,
    stride_n, stride_c, stride_l,
    alpha, beta, k,
    SIZE: tl.constexpr, STAGE: tl.constexpr, POWER: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    BEFORE: tl.constexpr = SIZE // 2
    AFTER: tl.constexpr = (SIZE - 1) // 2
    blocks = (pixels - 1) // BLOCK + 1  # an addition might wrap
    pid = tl.program_id(0)
    pixel = (pid % blocks).to(INDEX) * BLOCK + tl.arange(0, BLOCK)
    c, n = pid // blocks % C, pid // (blocks * C)
    inside = pixel < pixels
    stride_c = tl.cast(stride_c, tl.int64)
    start = n.to(tl.int64) * stride_n + pixel.to(tl.int64) * stride_l  # [BLOCK], of channel 0
    total = tl.zeros([BLOCK], tl.float32)
    for channel in range(tl.maximum(c - BEFORE, 0), tl.minimum(c + AFTER, C - 1) + 1):
        value = tl.load(x + start + channel * stride_c, mask=inside, other=0).to(tl.float32)
        total += value * value
    here = start + c * stride_c
    value = tl.load(x + here, mask=inside, other=0).to(tl.float32)
    factor, inverse = power(total * alpha + k, beta, POWER)
    if STAGE == "forward":
        tl.store(result + here, (value * factor).to(result.dtype.element_ty), mask=inside)
    else:
        scaled = tl.load(grad + here, mask=inside, other=0).to(tl.float32) * factor
        if STAGE == "shared":
            tl.store(shared + here, scaled * value * inverse, mask=inside)
        else:
            total = tl.zeros([BLOCK], tl.float32)
            for channel in range(tl.maximum(c - AFTER, 0), tl.minimum(c + BEFORE, C - 1) + 1):
                total += tl.load(shared + start + channel * stride_c, mask=inside, other=0)
            gradient = scaled - 2 * alpha * beta * value * total
            tl.store(result + here, gradient.to(result.dtype.element_ty), mask=inside)


def power_kind(beta: float) -> str:
    """Which of `power`'s cases an exponent is."""
    if beta == 0.75:
        return "three_quarters"
    if not float(beta).is_integer():
        return "fraction"
    return "zero" if beta == 0 else "odd" if beta % 2 else "even"


def _run(input: Tensor, grad: Tensor | None, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The output, or the gradient where there is a grad."""
    planned = like(input)
    spec, shape = in_planes(planned)
    result = empty(spec, input.device)
    if result.numel() == 0:
        return conform(result, planned)
    x = conform(input, spec)
    grad = None if grad is None else conform(grad, spec)
    V = 4 if input.dtype == torch.float32 and size <= 5 else 8
    inner = shape.strides[1] == 1 and shape.C % V == 0 and size - 1 <= V
    device = describe(input.device)
    direction = "forward" if grad is None else "backward"
    config = configure(result.numel(), device)
    if inner:
        config = choose(f"local_response_norm.{direction}", spec.shape, spec.dtype, device, config)
    numbers = (alpha / size, beta, k)
    with torch.cuda.device_of(input):
        if size - 1 > MAX_HALO:
            _launch_wide(x, grad, result, shape, size, numbers)
        else:
            runs = shape.N * shape.L * shape.C // V
            blocks = triton.cdiv(shape.L, config.BLOCK) * triton.cdiv(shape.C, V) * shape.N
            kernel = local_response_norm_forward_kernel if grad is None else local_response_norm_backward_kernel
            unit = V if inner else 1
            kernel[(triton.cdiv(runs, config.BLOCK) if inner else blocks,)](
                *((x, result) if grad is None else (grad, x, result)),
                runs, shape.L, shape.C // unit, *shape.strides, *numbers,
                size, V if inner else size - 1, V, unit, inner, power_kind(beta),
                index_type(runs if inner else shape.L, shape.C), config.BLOCK,
                num_warps=config.num_warps,
            )  # fmt: skip
    return conform(result, planned)


def _launch_wide(
    x: Tensor, grad: Tensor | None, result: Tensor, shape: Planes, size: int, numbers: tuple[float, float, float]
) -> None:
    BLOCK = min(triton.next_power_of_2(shape.L), 256)
    grid = (triton.cdiv(shape.L, BLOCK) * shape.C * shape.N,)
    shared, stages = x, ["forward"]
    if grad is not None:
        spec = Spec(tuple(result.shape), result.stride(), torch.float32)
        shared, stages = empty(spec, result.device), ["shared", "gradient"]
    for stage in stages:
        wide_window_kernel[grid](
            x, x if grad is None else grad, shared, result, shape.L, shape.C, *shape.strides, *numbers,
            size, stage, power_kind(numbers[1]), index_type(shape.L), BLOCK, num_warps=4,
        )  # fmt: skip


def forward(input: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return _run(input, None, size, alpha, beta, k)


def backward(
    grad: Tensor, input: Tensor, size: int, alpha: float, beta: float, k: float, needs: tuple[bool]
) -> tuple[Tensor | None]:
    """Gradient of the input."""
    return (_run(input, grad, size, alpha, beta, k),)
