"""How much memory a call holds besides what it returns; what kernels do meanwhile is nothing to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler import profile

from alexkern.tools import rehearsal
from support.backends import DEVICE


def launching_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[object]:
    """Launchers ask for their memory all the same, and need no GPU, emulator or time."""
    if backend == "triton" and DEVICE.type == "cpu":
        from triton.runtime import interpreter

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", lambda *_, **__: None)
    return rehearsal.rehearsing() if backend == "cuda" and DEVICE.type == "cpu" else nullcontext()


def held(values: Any) -> int:
    """The bytes of these tensors, each counted once."""
    storages = [value.untyped_storage() for value in values if isinstance(value, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def peak(call: Callable[[], Any]) -> tuple[tuple[Any, ...], int]:
    """What it returns, and the most bytes that it held besides."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = call()
        most = torch.cuda.max_memory_allocated() - before
    else:
        with profile(use_cpu=True, profile_memory=True) as profiled:
            results = call()
        events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
        sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
        most = max(itertools.accumulate(sizes), default=0)
    results = results if isinstance(results, tuple) else (results,)
    return results, most - held(results)
