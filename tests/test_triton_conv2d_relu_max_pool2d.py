"""What is particular to conv2d_relu_max_pool2d in Triton: the fused way, the separate way, and the choice."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexkern.accuracy import assert_same
from alexkern.backends.torch import conv2d_relu_max_pool2d as reference
from alexkern.geometry import Geometry
from alexkern.kernels import conv2d_relu_max_pool2d as kernels
from alexkern.kernels.config import TARGETS
from alexkern.kernels.conv2d_relu_max_pool2d import Config, configure
from alexkern.kernels.convolution import Problem
from support.backends import DEVICE
from support.canaries import canaries
from support.references import hold

POOL = ((3, 3), (2, 2), (0, 0))
FUSED = Config(True, ROWS=2, BLOCK_Q=8, BLOCK_N=16, BLOCK_K=64, num_warps=4, num_stages=3, factor=1)
SEPARATE = replace(FUSED, fused=False)

# input, weight, (stride, padding, dilation, groups), fused configuration
CASES = {
    "conv1": ((1, 3, 39, 31), (20, 3, 11, 11), ((4, 4), (2, 2), (1, 1), 1), replace(FUSED, factor=4)),
    "conv2": ((2, 16, 8, 7), (24, 16, 5, 5), ((1, 1), (2, 2), (1, 1), 1), FUSED),
    "one window": ((2, 5, 3, 3), (3, 5, 1, 1), ((1, 1), (0, 0), (1, 1), 1), replace(FUSED, ROWS=1)),
    "many tiles": ((1, 4, 8, 38), (17, 4, 3, 3), ((1, 1), (1, 1), (1, 1), 1), replace(FUSED, ROWS=1)),
    "one segment": ((1, 4, 12, 20), (17, 4, 3, 3), ((1, 1), (1, 1), (1, 1), 1), replace(FUSED, ROWS=8, BLOCK_Q=16)),
    "uneven": ((1, 3, 21, 25), (5, 3, 3, 2), ((1, 2), (0, 1), (2, 1), 1), FUSED),
}


def draw(name: str, dtype: torch.dtype, generator: torch.Generator, channels_last: bool) -> list[Tensor]:
    input_shape, weight_shape, _, _ = CASES[name]
    input = torch.randn(input_shape, generator=generator)
    weight = torch.randn(weight_shape, generator=generator) / math.prod(weight_shape[1:]) ** 0.5
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = [t.to(dtype).to(DEVICE).contiguous(memory_format=memory_format) for t in (input, weight)]
    return [*images, torch.randn(weight_shape[0], generator=generator).to(dtype).to(DEVICE)]


Force = Callable[[Config], None]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Force:
    return lambda config: monkeypatch.setattr(kernels, "_configuration", lambda *_: config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("way", ["fused", "separate"])
@pytest.mark.parametrize("name", CASES)
def test_both_ways(name: str, way: str, dtype: torch.dtype, generator: torch.Generator, force: Force) -> None:
    *_, convolution, config = CASES[name]
    force(config if way == "fused" else SEPARATE)
    x, w, b = draw(name, dtype, generator, channels_last=dtype == torch.float32)
    bias = None if name == "uneven" else b
    with canaries() as buffers:
        output, offsets = kernels.forward(x, w, bias, *convolution, *POOL, True)
        alone, none = kernels.forward(x, w, bias, *convolution, *POOL, False)
    assert buffers and none is None
    assert_same(alone, output, "output without offsets")
    numbers = (*convolution, *POOL, False)
    assert output.stride() == offsets.stride() == reference.forward(x, w, bias, *numbers)[0].stride()
    hold((output,), lambda *given: reference.forward(*given, *numbers)[0], x, w, bias)


@pytest.mark.parametrize("name", [pytest.param("conv1", marks=pytest.mark.full), "conv2", "many tiles"])
def test_fused_and_separate_are_torchs_to_the_bit(name: str, generator: torch.Generator, force: Force) -> None:
    """On numbers whose sums are exact in any order: small whole ones, with many ties, and NaN and infinities."""
    *_, convolution, config = CASES[name]
    x, w, b = draw(name, torch.float32, generator, channels_last=True)
    x, w, b = x.mul(2).round(), w.mul(4).round(), b.round()
    # In conv1, just outside of the convolution's window (4, 4), and far from all others of the pooling's window (1, 1).
    x[0, 0, 25 % x.shape[2], 25 % x.shape[3]] = float("nan")
    x[-1, -1, 0, 0] = float("inf")
    wanted = reference.forward(x, w, b, *convolution, *POOL, True)
    assert wanted[0].isnan().any() and wanted[0].isfinite().any()
    for each in (config, SEPARATE):
        force(each)
        output, offsets = kernels.forward(x, w, b, *convolution, *POOL, True)
        assert_same(output, wanted[0], "output")
        assert_same(offsets, wanted[1], "offsets")


def layer(C: int, H: int, K: int, R: int, stride: int, padding: int, dtype: torch.dtype = torch.bfloat16) -> Problem:
    """A square layer at batch 128."""
    return Problem(Geometry(128, C, H, H, K, R, R, (stride,) * 2, (padding,) * 2, (1, 1), 1), dtype, "ieee")


def changed(problem: Problem, **change: int) -> Problem:
    return replace(problem, geometry=problem.geometry._replace(**change))


CONV1, CONV2, CONV5 = (3, 224, 64, 11, 4, 2), (64, 27, 192, 5, 1, 2), (256, 13, 256, 3, 1, 1)


@pytest.mark.parametrize(
    "problem, pool",
    [
        (layer(*CONV1, dtype=torch.float32), POOL),
        (layer(*CONV1), ((2, 2), (2, 2), (0, 0))),
        (layer(*CONV1), ((3, 3), (2, 2), (1, 1))),
        (changed(layer(*CONV2), groups=2), POOL),
        (changed(layer(*CONV1), C=0), POOL),
        (changed(layer(*CONV1), H=40000, W=40000), POOL),
    ],
    ids=["ieee", "2x2", "padded", "groups", "no channels", "64-bit"],
)
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_what_is_never_fused(problem: Problem, pool: Any, target: int) -> None:
    assert not configure(problem, pool, True, TARGETS[target]).fused


def test_segments_from_a_row_to_all() -> None:
    rows = {config.ROWS for config in kernels.candidates(layer(*CONV5), TARGETS[90])}  # of the six that are pooled
    assert rows == {1, 2, 3, 6}


COMPILE = """
import dataclasses, sys
import torch
from alexkern.kernels import conv2d_relu
from alexkern.kernels import conv2d_relu_max_pool2d as kernels
from alexkern.tools import aot
from alexkern.kernels.config import TARGETS, rehearse
from alexkern.kernels.convolution import key_of, problem_of
torch.backends.cudnn.conv.fp32_precision = "tf32"
target, offsets = int(sys.argv[1]), sys.argv[2] == "True"
for dtype in (torch.bfloat16, torch.float16, torch.float32):
    for (C, H, K, R, stride, padding) in ((3, 224, 64, 11, 4, 2), (64, 27, 192, 5, 1, 2)):
        x = torch.empty(128, C, H, H, dtype=dtype, device="meta").contiguous(memory_format=torch.channels_last)
        w = torch.empty(K, C, R, R, dtype=dtype, device="meta").contiguous(memory_format=torch.channels_last)
        b = torch.empty(K, dtype=dtype, device="meta")
        geometry = ((stride,) * 2, (padding,) * 2, (1, 1), 1)
        problem = problem_of(key_of(x, w, *geometry, "tf32" if dtype == torch.float32 else "ieee"))
        seen = {}
        for config in kernels.candidates(problem, TARGETS[target]):
            seen.setdefault((config.BLOCK_Q, config.BLOCK_N), config)
        for config in seen.values():
            kernels._configuration = lambda *_: config
            with rehearse(TARGETS[target]), aot.compiling_for(target):
                launches, _ = aot.record(lambda: kernels.forward(x, w, b, *geometry, (3, 3), (2, 2), (0, 0), offsets))
            (fused,) = (one for one in launches if one.kernel is kernels.conv2d_relu_max_pool2d_kernel)
            report = aot.report(fused, target)
            assert fused.constants["PRECISION"] == problem.precision
            print(report.kernel, report.stack + report.local, dtype, config)
"""


@pytest.mark.full
@pytest.mark.parametrize("save_offsets", [False, True])
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_no_candidate_spills(target: int, save_offsets: bool, tmp_path: Path) -> None:
    """In a process without TRITON_INTERPRET, under which there is nothing to compile."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", COMPILE, str(target), str(save_offsets)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6 * (3 if TARGETS[target].multiplies_shared_memory else 2)
    for line in lines:
        assert line.startswith("conv2d_relu_max_pool2d_kernel 0 "), f"bytes of stack and local memory in {line}"
