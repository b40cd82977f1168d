"""Which backends the conformance suite can run here, in which dtypes, and why not the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alexkern import dispatch
from alexkern.backends import cpu
from alexkern.ops.registry import OPERATORS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HALVES = (torch.float16, torch.bfloat16)


def dtypes(backend: str) -> tuple[torch.dtype, ...]:
    if backend == "torch":
        return (torch.float32, *HALVES, torch.float64)
    if backend == "cpu":
        return tuple(dtype for dtype in (torch.float32, torch.bfloat16) if cpu.missing("cpu", dtype) is None)
    if backend == "triton" and DEVICE.type == "cpu":
        # Triton's interpreter computes bfloat16 wrong, without a word.
        return (torch.float32, torch.float16)
    return (torch.float32, *HALVES)


def is_slow(backend: str) -> bool:
    """Whether a backend runs in Triton's interpreter: a thousand times slower, so the quick tests take fewer cases."""
    return backend == "triton" and DEVICE.type == "cpu"


def combination(case: Any, backend: str, *more: Any, quick: bool = True) -> Any:
    """Parameters (case, backend, *more) of a test; left to the long half where the backend is slow and not `quick`."""
    names = [str(value).removeprefix("torch.") for value in (case, backend, *more)]
    marks = [pytest.mark.full] if is_slow(backend) and not quick else []
    return pytest.param(case, backend, *more, id="-".join(names), marks=marks)


def why_missing(backend: str, operator: str) -> str | None:
    return dispatch.missing(backend, operator, DEVICE.type, torch.float32)


def serving(operator: str) -> list[str]:
    return [backend for backend in dispatch.PACKAGES if why_missing(backend, operator) is None]


def describe_backends() -> list[str]:
    lines = []
    for backend in dispatch.PACKAGES:
        reasons = {operator: why_missing(backend, operator) for operator in OPERATORS}
        there = [operator for operator, reason in reasons.items() if reason is None]
        if there:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes(backend))
            lines.append(f"alexkern {backend} on {DEVICE.type}: {len(there)} operators, {names}")
        for reason in sorted({reason for reason in reasons.values() if reason is not None}):
            lines.append(f"alexkern {backend} on {DEVICE.type}: NOT RUN: {reason}")
    return lines
