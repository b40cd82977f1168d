"""What a launch of a CUDA C++ kernel costs the host, through the binding: arguments, checks, and CUDA's own part.

It may be 5 us. The kernels have so little to do that the GPU is done before the host comes again; beside it stands a
launch of torch's with as little work. Without a GPU nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.backends import cuda
from alexkern.bench.checks import WrongResult
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, compares
from alexkern.bench.layers import Target
from alexkern.bench.options import Options
from alexkern.geometry import pooling
from alexkern.measure.timing import Call
from alexkern.plan import strides

# A kernel's name, its input, its other arguments, and its output, which is to be ones.
Launch = tuple[str, Tensor, tuple[object, ...], Tensor]

SECONDS, LEAST_S = 0.3, 0.1
WHY_NOT = cuda.missing("cuda", torch.float32)


def _dropout(target: Target) -> Launch:
    """Of numbers alone."""
    x, seed = torch.ones(64, device=target.device), torch.zeros(2, dtype=torch.int64, device=target.device)
    output = torch.zeros_like(x)
    return "dropout", x, (x.data_ptr(), output.data_ptr(), seed.data_ptr(), x.numel(), 0, 1.0), output


def _max_pool2d(target: Target) -> Launch:
    """With shapes and strides among its arguments."""
    x = torch.ones(1, 8, 9, 9, device=target.device).contiguous(memory_format=torch.channels_last)
    output = torch.zeros(1, 8, 4, 4, device=target.device).contiguous(memory_format=torch.channels_last)
    window = pooling(x.shape, (3, 3), (2, 2), (0, 0))
    images = (x.data_ptr(), strides(x), output.data_ptr(), strides(output), 0, (0, 0, 0, 0))
    return "max_pool2d_forward", x, (False, False, window, (4, 4), *images), output


def launches(options: Options) -> Iterable[Comparison]:
    if options.target.device.type != "cuda":
        return
    for kernel in (_dropout, _max_pool2d):
        operator = kernel.__name__.strip("_")
        if dispatch.missing("cuda", operator, "cuda", torch.float32) is not None:  # one may be switched off
            continue
        yield Comparison(
            kind=Kind.OVERHEAD,
            section="host cost of a launch",
            what=operator,
            variants=(Variant("alexkern", ours=True), Variant("torch.relu_")),
            setup=partial(_trial, kernel, options.target),
            seconds=SECONDS,
            least_s=LEAST_S,
        )


def _trial(kernel: Callable[[Target], Launch], target: Target) -> Trial:
    name, x, arguments, output = kernel(target)

    def prepare(variant: str) -> Call:
        if variant == "torch.relu_":
            return lambda: torch.relu_(x)
        return lambda: cuda.launch(name, x, *arguments)

    def check(variant: str, result: object) -> None:
        if variant == "alexkern" and not torch.equal(output, torch.ones_like(output)):
            raise WrongResult("the maximum, or what is kept, of ones is not one")

    return Trial(prepare, check)


bench_launch = pytest.mark.skipif(WHY_NOT is not None, reason=f"not measured: {WHY_NOT}")(compares(launches))
