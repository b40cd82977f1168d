"""Which backend `auto` takes on a GPU: of those that were seen to be right there, the fastest, torch's own included.

What was seen is the record of `alexkern verify` (alexkern/verified.py). It is read once for a device: a process goes on
as it began, until `forget`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from alexkern import verified

UNVERIFIED = "not verified on this GPU: run alexkern verify"


def judge(operator: str, here: Sequence[str], device: torch.device, arithmetic: str) -> dict[str, str | None]:
    """Of the backends that could serve, torch last: why each is not taken, and None for the one that is."""
    *ours, torchs = here
    known = _known(device).get(operator, {})
    reasons: dict[str, str | None] = {name: _doubt(known.get(name)) for name in ours}
    right = {name: known[name] for name in ours if reasons[name] is None}
    ms = {name: found["ms"][arithmetic] for name, found in right.items() if arithmetic in found.get("ms", ())}
    if ms:
        ms[torchs] = min(right[name]["torch_ms"][arithmetic] for name in ms)
    taken = min(ms, key=lambda name: ms[name]) if ms else next(iter(right), torchs)
    for name in (*right, torchs):
        if name in ms:
            reasons[name] = f"slower here: {ms[name]:.3g} ms, {taken} {ms[taken]:.3g}"
        else:
            reasons[name] = f"not timed here in {arithmetic}: {taken} comes first"
    return reasons | {taken: None}


def _doubt(found: dict[str, Any] | None) -> str | None:
    """Why a backend is not known to be right, or None where it is."""
    if found is None:
        return UNVERIFIED
    if found["passed"]:
        return None
    return f"wrong on this GPU: {str(found['failure']).removeprefix('FAILED: ').removeprefix('wrong: ')}"


def has_passed(operator: str, device: torch.device) -> bool:
    """Whether some backend of ours was seen to be right."""
    return any(found["passed"] for name, found in _known(device).get(operator, {}).items() if name != "torch")


@functools.cache
def _known(device: torch.device) -> dict[str, dict[str, Any]]:
    return verified.known(device)


def forget() -> None:
    """Read the records anew."""
    _known.cache_clear()
