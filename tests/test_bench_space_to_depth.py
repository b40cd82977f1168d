"""The bench row of the first layer: which there are, and that ours computes what torch's operators do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alexkern.bench import bench_space_to_depth as rows
from alexkern.bench.checks import WrongResult
from alexkern.bench.layers import Convolution, Target
from alexkern.bench.options import Options
from support.backends import DEVICE, serving

GPU = tuple(Target(torch.device("cuda"), dtype) for dtype in (torch.bfloat16, torch.float32))
OPTIONS = Options(GPU, ("alexnet",), (), (), (), 128, False, "wall", 1.0)


def test_there_is_a_row_for_each_source_in_16_bits_on_a_gpu() -> None:
    compared = list(rows.first_layers(OPTIONS))
    assert [one.what for one in compared] == [
        "conv1 from bfloat16 NHWC",
        "conv1 from uint8 NHWC",
        "conv1 from float32 NCHW",
    ]
    assert all("batch 128" in one.section and one.variants[0].ours for one in compared)
    images = 128 * 3 * 224 * 224
    own, *others = (one.work[0].bytes for one in compared)
    assert [other - own for other in others] == [-images, 2 * images]
    assert list(rows.first_layers(replace(OPTIONS, targets=(Target(torch.device("cpu"), torch.bfloat16),)))) == []


@pytest.mark.skipif("cuda" not in serving("conv2d_relu"), reason="the CUDA kernels do not run here")
@pytest.mark.parametrize("source", rows.SOURCES, ids=lambda source: source.name)
def test_every_variant_computes_the_same(source: rows.Source, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda *args: torch.conv2d(*args).relu())  # it needs a GPU
    layer = Convolution("conv1", 3, 31, 8, 11, stride=4, padding=2)
    trial = rows._trial(source, layer, 2, Target(DEVICE, torch.bfloat16))
    for name in ("alexkern cuda", *rows.TORCH, rows.CUDNN):
        result = trial.prepare(name)()
        trial.check(name, result)
        with pytest.raises(WrongResult):
            trial.check(name, (result[0] * 1.2,))
