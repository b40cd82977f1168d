"""Programs at the end of a large grid, run alone: 64-bit addresses without the time and the memory of all of them.

The interpreter computes addresses in the kernel's own integer types, int32 wrapping included, and memory that nobody
touches costs nothing. So a launch over 2**31 elements is tested by its last program.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from support.shadow import GRID

Program = tuple[int, ...]
LIMIT = 2**31
interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="single programs run in Triton's interpreter; a GPU runs test_gpu_addresses.py",
)


def sparse(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """A contiguous tensor on the CPU; the pages that nobody writes to are zero, and take no memory."""
    return torch.empty(shape, dtype=dtype)


def sparse_images(N: int, C: int, H: int, W: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """The same, of shape (N, C, H, W) in NHWC memory."""
    return sparse(N, H, W, C, dtype=dtype).permute(0, 3, 1, 2)


class Alone:
    """Stands in for an interpreted kernel: of each launch only some programs run. `args` are the last launch's."""

    def __init__(self, kernel: Any, programs: Iterable[Program], monkeypatch: pytest.MonkeyPatch) -> None:
        """Negative indices count from the end of the grid's axis."""
        self.kernel = kernel
        self.programs = tuple(programs)
        self.monkeypatch = monkeypatch
        self.args: tuple[Any, ...] = ()

    def __getitem__(self, grid: Program) -> Any:
        return partial(self._launch, grid)

    def _launch(self, grid: Program, *args: Any, **kwargs: Any) -> None:
        from triton.runtime.interpreter import interpreter_builder

        assert all(0 < size <= limit for size, limit in zip(grid, GRID, strict=False))
        self.args = args
        program_id = interpreter_builder.create_get_program_id
        for program in self.programs:
            place = [index + size if index < 0 else index for index, size in zip(program, grid, strict=False)]

            def moved(axis: int, place: list[int] = place) -> Any:
                handle = program_id(axis)
                handle.data = handle.data + handle.data.dtype.type(place[axis] if axis < len(place) else 0)
                return handle

            with self.monkeypatch.context() as patch:
                patch.setattr(interpreter_builder, "create_get_program_id", moved)
                self.kernel[(1,)](*args, **kwargs)


def last_program(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, *programs: Program) -> Alone:
    """Within the test the kernel `name` of a module runs these programs only; default: the last of the grid."""
    alone = Alone(getattr(module, name), programs or [(-1, -1, -1)], monkeypatch)
    monkeypatch.setattr(module, name, alone)
    return alone


def whole(shape: Iterable[int], generator: torch.Generator, low: int = -1, high: int = 2) -> Tensor:
    """Small whole numbers, whose products and sums are exact in any order."""
    shape = tuple(shape)
    return torch.randint(low, high, (math.prod(shape),), generator=generator).view(shape).half()
