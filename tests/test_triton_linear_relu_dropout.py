"""What is particular to the Triton linear layer: dropout's bits in its epilogue, its configurations, its gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from alexkern.accuracy import assert_same
from support.backends import DEVICE, why_missing
from support.canaries import canaries
from support.references import hold

if why_missing("triton", "linear_relu_dropout") is not None:
    pytest.skip(f"triton: {why_missing('triton', 'linear_relu_dropout')}", allow_module_level=True)

from alexkern.backends.torch import bits, philox
from alexkern.backends.torch import linear_relu_dropout as reference
from alexkern.kernels import linear_relu_dropout
from alexkern.kernels.config import TARGETS
from alexkern.kernels.linear_relu_dropout import Config, Problem


@pytest.fixture(autouse=True)
def fresh_launches() -> Iterator[None]:
    """Launches are cached by problem: forget those that a test configured."""
    yield
    linear_relu_dropout.prepare.cache_clear()


@pytest.mark.parametrize("features", [36, 30], ids=["blocks_of_four", "by_element"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_epilogue_drops_what_philox_says(
    features: int, p: float, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    monkeypatch.setattr(linear_relu_dropout, "configure", lambda problem, device: Config(16, 16, 16, 1, 2))
    seed = torch.tensor([-(2**62) - 5, -3], dtype=torch.int64, device=DEVICE)  # the offset wraps within the tensor
    input = torch.randn(19, 21, generator=generator).to(DEVICE)
    weight = torch.zeros(features, 21, device=DEVICE)
    bias = torch.ones(features, device=DEVICE)
    with canaries() as buffers:
        output, mask = linear_relu_dropout.forward(input, weight, bias, seed, p, True)
    assert buffers
    kept = philox.keep(seed, p, tuple(output.shape), output.stride())
    assert_same(mask, bits.pack(kept), "mask")
    scale = 1 / (1 - p) if p < 1 else 0.0
    assert_same(output, torch.where(kept, scale, 0.0).to(torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_nan_and_infinity(dtype: torch.dtype, generator: torch.Generator) -> None:
    seed = torch.tensor([7, 11], dtype=torch.int64, device=DEVICE)
    input = torch.randn(4, 8, generator=generator).to(dtype).to(DEVICE)
    input[1] = float("nan")
    weight = torch.rand(12, 8, generator=generator).to(dtype).to(DEVICE)
    bias = torch.zeros(12, dtype=dtype, device=DEVICE)
    bias[5] = float("inf")
    output, mask = linear_relu_dropout.forward(input, weight, bias, seed, 0.5, True)
    kept = philox.keep(seed, 0.5, (4, 12), (12, 1))
    assert bool(output[1].isnan().all())
    assert torch.equal(output[0, 5].isnan(), ~kept[0, 5])
    grad = torch.ones_like(output)
    _, _, db = linear_relu_dropout.backward(grad, input, weight, mask, seed, 0.5, (False, False, True))
    wanted = 2 * (kept & ~(output <= 0)).sum(0)  # a NaN lets its gradient pass where it was kept
    assert_same(db, wanted.to(dtype))


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients(transposed: bool, generator: torch.Generator) -> None:
    seed = torch.tensor([1, 2], dtype=torch.int64, device=DEVICE)
    input = torch.randn(2, 3, 20, generator=generator).to(DEVICE)
    weight = torch.randn(20, 9, generator=generator).to(DEVICE).t() if transposed else torch.randn(9, 20).to(DEVICE)
    _, mask = linear_relu_dropout.forward(input, weight, None, seed, 0.4, True)
    grad = torch.randn(9, 3, 2, generator=generator).to(DEVICE).permute(2, 1, 0)
    needs = (True, True, True)
    with canaries() as buffers:
        grads = linear_relu_dropout.backward(grad, input, weight, mask, seed, 0.4, needs)
    assert buffers
    hold(grads, lambda *given: reference.backward(*given, mask, seed, 0.4, needs), grad, input, weight)
    assert grads[1] is not None and grads[1].stride() == weight.stride()


def test_a_wide_tile_leaves_registers_for_dropouts_bits() -> None:
    """Beside the sums, as 128 x 256 in eight warps does not."""
    most = linear_relu_dropout.configure(Problem(1024, 9216, 4096, torch.bfloat16, "ieee"), TARGETS[90])
    assert most.BLOCK_M * most.BLOCK_N // (32 * most.num_warps) <= 64
