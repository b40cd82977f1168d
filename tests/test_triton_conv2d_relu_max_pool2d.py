"""What is particular to conv2d_relu_max_pool2d in Triton: the fused way, the separate way, and the choice."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexkern.accuracy import assert_accurate, assert_same
from alexkern.backends.torch import conv2d_relu_max_pool2d as reference
from alexkern.bench.layers import LAYERS
from alexkern.cost.chips import Chip
from alexkern.cost.model import cdiv
from alexkern.geometry import Geometry
from alexkern.kernels import conv2d_relu
from alexkern.kernels import conv2d_relu_max_pool2d as kernels
from alexkern.kernels.config import TARGETS
from alexkern.kernels.conv2d_relu_max_pool2d import Config, configure
from alexkern.kernels.convolution import Problem
from alexkern.ops.conv2d_relu_max_pool2d import OPERATOR
from support.backends import DEVICE
from support.canaries import canaries

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
    weight = (
        torch.randn(weight_shape, generator=generator) / (weight_shape[1] * weight_shape[2] * weight_shape[3]) ** 0.5
    )
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = [t.to(dtype).to(DEVICE).contiguous(memory_format=memory_format) for t in (input, weight)]
    return [*images, torch.randn(weight_shape[0], generator=generator).to(dtype).to(DEVICE)]


def force(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_configuration", lambda *_: config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("way", ["fused", "separate"])
@pytest.mark.parametrize("name", CASES)
def test_both_ways(
    name: str, way: str, dtype: torch.dtype, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, convolution, config = CASES[name]
    force(config if way == "fused" else SEPARATE, monkeypatch)
    x, w, b = draw(name, dtype, generator, channels_last=dtype == torch.float32)
    bias = None if name == "uneven" else b
    with canaries() as buffers:
        output, offsets = kernels.forward(x, w, bias, *convolution, *POOL, True)
        alone, none = kernels.forward(x, w, bias, *convolution, *POOL, False)
    assert buffers and none is None
    assert_same(alone, output, "output without offsets")
    wanted, _ = reference.forward(
        x.double(), w.double(), None if bias is None else bias.double(), *convolution, *POOL, False
    )
    torchs, _ = reference.forward(x, w, bias, *convolution, *POOL, False)
    assert output.stride() == torchs.stride() and offsets.stride() == output.stride()
    assert_accurate(output, wanted, torchs, "output")


@pytest.mark.parametrize("name", [pytest.param("conv1", marks=pytest.mark.full), "conv2", "many tiles"])
def test_fused_and_separate_are_torchs_to_the_bit(
    name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        force(each, monkeypatch)
        output, offsets = kernels.forward(x, w, b, *convolution, *POOL, True)
        assert_same(output, wanted[0], "output")
        assert_same(offsets, wanted[1], "offsets")


@pytest.mark.parametrize("needs", [(True, True, True), (False, True, False), (True, False, True)])
@pytest.mark.parametrize("name", ["conv2", "uneven"])
def test_backward(name: str, needs: tuple[bool, bool, bool], generator: torch.Generator) -> None:
    _, _, convolution, _ = CASES[name]
    tensors = draw(name, torch.float32, generator, channels_last=name == "conv2")
    args = (*tensors, *convolution, *POOL, True)
    saved, params = OPERATOR.save(args, kernels.forward(*args))
    grad = torch.randn(saved[2].shape, generator=generator).to(DEVICE)
    ours = kernels.backward(grad, *saved, *params, needs)
    wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in (grad, *saved)]
    wanted, torchs = reference.backward(*wide, *params, needs), reference.backward(grad, *saved, *params, needs)
    assert [gradient is not None for gradient in ours] == list(needs)
    for what, gradient, exact, by_torch in zip(("input", "weight", "bias"), ours, wanted, torchs, strict=True):
        if gradient is not None:
            assert_accurate(gradient, exact, by_torch, f"gradient of {what}")


def layer(C: int, H: int, K: int, R: int, stride: int, padding: int, dtype: torch.dtype = torch.bfloat16) -> Problem:
    """A square layer at batch 128."""
    return Problem(Geometry(128, C, H, H, K, R, R, (stride,) * 2, (padding,) * 2, (1, 1), 1), dtype, "ieee")


def changed(problem: Problem, **change: int) -> Problem:
    return replace(problem, geometry=problem.geometry._replace(**change))


CONV1, CONV2, CONV5 = (3, 224, 64, 11, 4, 2), (64, 27, 192, 5, 1, 2), (256, 13, 256, 3, 1, 1)


def test_only_the_first_layer_is_fused_on_an_h100() -> None:
    ways = [configure(layer(*sizes), POOL, False, TARGETS[90]).fused for sizes in (CONV1, CONV2, CONV5)]
    assert ways == [True, False, False]


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


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("sizes", [CONV1, CONV2, CONV5], ids=["conv1", "conv2", "conv5"])
@pytest.mark.parametrize("save_offsets", [False, True])
def test_the_choice_is_the_cheaper_of_the_two(sizes: tuple[int, ...], target: int, save_offsets: bool) -> None:
    problem, device = layer(*sizes), TARGETS[target]
    best = kernels.best_fused(problem, save_offsets, device)
    fused = kernels.fused_cycles(problem, best, save_offsets, device)
    separate = kernels.separate_cycles(problem, save_offsets, device)
    assert configure(problem, POOL, save_offsets, device).fused == (fused < separate)


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


def gigaflops(problem: Problem, config: Config | None) -> float:
    """Of the two kernels, or of the fused one: the halo, and the places that a tile has too many, are computed."""
    of, product = problem.geometry, conv2d_relu.product(problem)
    P, Q = kernels.pooled(of)
    pixels = product.M
    if config is not None:
        steps, tiles = P + cdiv(P, config.ROWS), cdiv(Q, config.BLOCK_Q - 1)
        pixels = of.N * steps * tiles * 4 * config.BLOCK_Q
    return 2e-9 * pixels * of.K * product.K


def test_work_of_the_first_layer_counted_by_hand() -> None:
    problem, config = layer(*CONV1), replace(FUSED, ROWS=9, BLOCK_Q=32, factor=4)
    image, filters, pooled = 128 * 3 * 224 * 224 * 2, 64 * 3 * 11 * 11 * 2, 128 * 64 * 27 * 27
    assert kernels.moved(problem, True) == (image + filters, 128 * 64 * 55 * 55 * 2, pooled * 3)
    assert gigaflops(problem, None) * 1e9 == pytest.approx(2 * 128 * 55 * 55 * 64 * 432)
    # 3 segments of 10 steps of 2 x 64 pixels
    assert gigaflops(problem, config) * 1e9 == pytest.approx(2 * 128 * 3 * 10 * 128 * 64 * 432)


def row(label: str, problem: Problem, device: Chip) -> str:
    """FLOPs, bytes and modelled time, separate and, if possible, fused."""
    inputs, between, outputs = kernels.moved(problem, False)
    cycles = kernels.separate_cycles(problem, False, device)
    ways = [(gigaflops(problem, None), (inputs + 2 * between + outputs) / 1e6, cycles / 1e3)]
    if kernels.fusable(problem, POOL):
        best = kernels.best_fused(problem, False, device)
        cycles = kernels.fused_cycles(problem, best, False, device)
        ways.append((gigaflops(problem, best), (inputs + outputs) / 1e6, cycles / 1e3))
    cells = [label]
    for column, digits in enumerate((1, 1, 0)):
        cells += [f"{way[column]:.{digits}f}" for way in ways] + ["-"] * (2 - len(ways))
    cells.append("fused" if ways[-1][2] < ways[0][2] else "separate")
    return "| " + " | ".join(cells) + " |"


def test_the_table_in_the_documentation_is_what_the_model_says() -> None:
    """All pooled convolutions of the three networks on the chips of data centres, and no row but these."""
    text = (Path(__file__).parent.parent / "docs" / "tables" / "pooling.md").read_text(encoding="utf-8")
    names = {"alexnet": "", "alexnet_single_tower": "tower ", "alexnet_2012": "2012 "}
    wanted = []
    for target in (80, 90, 100):
        for model, name in names.items():
            for one in LAYERS[model].pooled_convolutions:
                problem = Problem(one.geometry(128), torch.bfloat16, "ieee")
                label = f"{TARGETS[target].name.removeprefix('NVIDIA ')} {name}{one.name}"
                wanted.append(row(label, problem, TARGETS[target]))
                assert wanted[-1].endswith("| fused |") == configure(problem, POOL, False, TARGETS[target]).fused
    rows = [line for line in text.splitlines() if line.startswith(("| A100 ", "| H100 ", "| B200 "))]
    assert rows == wanted, "docs/tables/pooling.md should say\n" + "\n".join(wanted)
