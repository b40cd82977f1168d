"""The accuracy rule, the one there is.

Against a float64 reference on the same rounded inputs, an operator's largest error is at most twice that of torch's own
operator in the same dtype, plus one unit in the last place of the largest value.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ulp(value: float, dtype: torch.dtype) -> float:
    """The distance between neighbouring numbers of `dtype` at `value`."""
    info = torch.finfo(dtype)
    if value < info.tiny:
        return info.tiny * info.eps
    return info.eps * 2.0 ** math.floor(math.log2(value))


def error_and_allowed(
    ours: Tensor, reference: Tensor, torchs: Tensor, magnitudes: Tensor | None = None
) -> tuple[float, float]:
    """The largest error of a result that is not empty, and what the rule allows; see assert_accurate."""
    error, torchs_error = ((value.double() - reference).abs().max().item() for value in (ours, torchs))
    largest = reference.abs().max().item()
    rounding = ulp(largest, ours.dtype) if magnitudes is None else 4 * ulp(magnitudes.max().item(), ours.dtype)
    return error, 2 * torchs_error + rounding


def assert_accurate(
    ours: Tensor, reference: Tensor, torchs: Tensor, what: str = "result", magnitudes: Tensor | None = None
) -> None:
    """`reference` is float64; `torchs` is what torch's own operators give in ours' dtype.

    magnitudes: the sums of the terms' magnitudes, for results so few that torch's error may be a small one by luck.
    Four units in the last place of the largest are then allowed: a few roundings, in whatever order one adds up.
    """
    assert reference.dtype == torch.float64
    assert ours.dtype == torchs.dtype, f"{what}: dtype {ours.dtype}, torch's is {torchs.dtype}"
    assert ours.shape == reference.shape, f"{what}: shape {tuple(ours.shape)}, wanted {tuple(reference.shape)}"
    if ours.numel() == 0:
        return
    error, allowed = error_and_allowed(ours, reference, torchs, magnitudes)
    assert error <= allowed, (
        f"{what}: error {error:.3e} over {allowed:.3e} (largest value {reference.abs().max().item():.3e})"
    )


def assert_same(ours: Tensor, wanted: Tensor, what: str = "result") -> None:
    """Equal bits, NaN included (any NaN equals any other), and the signs of zeros."""
    assert ours.dtype == wanted.dtype, f"{what}: dtype {ours.dtype}, wanted {wanted.dtype}"
    assert ours.shape == wanted.shape, f"{what}: shape {tuple(ours.shape)}, wanted {tuple(wanted.shape)}"
    if ours.dtype.is_floating_point:
        assert torch.equal(ours.isnan(), wanted.isnan()), f"{what}: NaN in other places"
        ours, wanted = ours.nan_to_num(nan=0.0), wanted.nan_to_num(nan=0.0)
        assert torch.equal(ours.signbit(), wanted.signbit()), f"{what}: other signs (of zeros, perhaps)"
    assert torch.equal(ours, wanted), f"{what}: other values"
