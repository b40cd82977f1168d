"""Results held by the accuracy rule to the same function of torch's, in float64 and in their own arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from alexkern.accuracy import assert_accurate, assert_same


def hold(ours: Sequence[Tensor | None], function: Callable[..., Any], *tensors: Tensor | None) -> None:
    """To what `function` makes of these tensors; None where it has no result."""
    wide = [given.double() if given is not None and given.is_floating_point() else given for given in tensors]
    exact, torchs = (found if isinstance(found, tuple) else (found,) for found in (function(*wide), function(*tensors)))
    for place, (found, wanted, torchs_own) in enumerate(zip(ours, exact, torchs, strict=True)):
        assert (found is None) == (wanted is None), f"result {place}"
        if found is not None:
            assert_accurate(found, wanted, torchs_own, f"result {place}")


def all_same(ours: Sequence[Tensor | None], wanted: Sequence[Tensor | None]) -> None:
    """Bit by bit; None where none is wanted."""
    for place, (found, other) in enumerate(zip(ours, wanted, strict=True)):
        assert (found is None) == (other is None), f"result {place}"
        if found is not None:
            assert_same(found, other, f"result {place}")
