"""What is particular to the Triton dropout kernel: tails, programs. tests/conformance has its bits."""

from __future__ import annotations

import pytest
import torch

from alexkern import dispatch
from alexkern.accuracy import assert_same
from alexkern.backends.torch import dropout as reference
from alexkern.kernels import dropout
from alexkern.kernels.config import TARGETS, Blocks
from support.backends import DEVICE
from support.canaries import canaries

DTYPES = (torch.float32, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("numel", [1, 3, 255, 256, 257, 1030])
@pytest.mark.parametrize("p", [1e-12, 0.1, 0.75, 1 - 1e-12, 1.0])
def test_tails_and_thresholds(numel: int, p: float, dtype: torch.dtype, generator: torch.Generator) -> None:
    input = torch.randn(numel, generator=generator).to(dtype).to(DEVICE)
    input[0], input[-1] = float("nan"), float("inf")
    seed = torch.randint(-(2**63), 2**63 - 1, (2,), generator=generator).to(DEVICE)
    with canaries() as buffers:
        ours = dropout.forward(input, seed, p)
    assert len(buffers) == 1
    assert_same(ours, reference.forward(input, seed, p))


@pytest.mark.parametrize("numel", [1, 5000, 128 * 9216])
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_program_has_whole_philox_blocks_and_full_accesses(numel: int, target: int) -> None:
    config = dropout.configure(numel, TARGETS[target])
    assert config.BLOCK % (8 * 32 * config.num_warps) == 0


def test_smaller_programs_where_larger_ones_are_fewer_than_multiprocessors() -> None:
    for programs, block, warps in ((132, 1024, 4), (131, 512, 2), (66, 512, 2), (65, 256, 1)):
        assert dropout.configure(programs * 1024, TARGETS[90]) == Blocks(block, warps)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "cuda"])
def test_over_2_to_the_31_elements_on_a_gpu(backend: str) -> None:
    if reason := dispatch.missing(backend, "dropout", DEVICE.type, torch.float16):
        pytest.skip(reason)
    numel = 2**31 + 1024
    input = torch.ones(numel, dtype=torch.float16, device=DEVICE)
    seed = torch.tensor([3, 5], device=DEVICE)
    ours = dispatch.implementation(backend, "dropout").forward(input, seed, 0.5)
    tail = torch.tensor([3, 5 + 2**31 // 4], device=DEVICE)
    assert_same(ours[2**31 :], reference.forward(input[:1024], tail, 0.5))
