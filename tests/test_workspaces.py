"""docs/workspaces.md says how much memory an operator asks for in between: the peak of what torch's allocator gives."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from alexkern import dispatch
from alexkern.backends.cpu import memory
from alexkern.ops.registry import OPERATORS
from alexkern.tools import rehearsal
from support.backends import DEVICE, why_missing
from support.peaks import held, launching_nothing, peak

PAGE = Path(__file__).parents[1] / "docs" / "workspaces.md"
ROW = re.compile(r"\| `(\w+)` " + r"\| ([\d.]+ / [\d.]+) " * 4 + r"\|")
BACKENDS = "torch", "cpu", "triton", "cuda"
LAYOUTS = torch.contiguous_format, torch.channels_last

CONV1, CONV2, CONV3 = (
    (((8, C, H, H), (K, C, R, R), (K,)), ((stride, stride), (padding, padding), (1, 1), 1))
    for C, H, K, R, stride, padding in ((3, 224, 64, 11, 4, 2), (64, 27, 192, 5, 1, 2), (192, 13, 384, 3, 1, 1))
)
POOLING = ((3, 3), (2, 2), (0, 0))
SEED = (2,)  # the shape of a seed and offset
CALLS: dict[str, list[tuple[Any, tuple[Any, ...]]]] = {
    "conv2d_relu": [CONV1, CONV2, CONV3],
    "conv2d_relu_max_pool2d": [(shapes, (*numbers, *POOLING, True)) for shapes, numbers in (CONV1, CONV2)],
    "max_pool2d": [(((8, 64, 55, 55),), (*POOLING, (1, 1), False, True))],
    "dropout": [(((8, 9216), SEED), (0.5,))],
    "linear_relu_dropout": [(((8, 4096), (1024, 4096), (1024,), SEED), (0.5, True))],
    "local_response_norm": [(((8, 96, 55, 55),), (5, 1e-4, 0.75, 1.0))],
}


def documented() -> dict[str, list[str]]:
    rows = (ROW.match(line) for line in PAGE.read_text().splitlines())
    return {row[1]: list(row.groups()[1:]) for row in rows if row}


@torch.no_grad()
def shares(operator: str, backend: str) -> list[float]:
    """Of forward and backward: the largest of the layers' workspaces, as a share of what the call reads and returns."""
    op, module, most = OPERATORS[operator], dispatch.implementation(backend, operator), [0.0, 0.0]
    for shapes, parameters in CALLS[operator]:
        for layout in LAYOUTS[: 2 if len(shapes[0]) == 4 else 1]:
            tensors = [
                (torch.ones(shape, dtype=torch.int64) if shape is SEED else torch.randn(shape)).to(DEVICE)
                for shape in shapes
            ]
            args = (*(t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in tensors), *parameters)
            del tensors
            outputs, besides = peak(partial(module.forward, *args))
            most[0] = max(most[0], besides / held((*args, *outputs)))
            saved, rest = op.save(args, outputs)
            given = (torch.ones_like(outputs[0]), *saved)
            del args, outputs
            gradients, besides = peak(partial(module.backward, *given, *rest, (True,) * op.num_differentiable))
            most[1] = max(most[1], besides / held((*given, *gradients)))
    return most


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_peaks(operator: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = rehearsal.missing() if backend == "cuda" and DEVICE.type == "cpu" else why_missing(backend, operator)
    if lacking is not None:
        pytest.skip(lacking)
    monkeypatch.setattr(memory, "limit", lambda: 0)  # recycled memory is not torch's
    with launching_nothing(backend, monkeypatch):
        measured = shares(operator, backend)
    said = [float(share) for share in documented()[operator][BACKENDS.index(backend)].split(" / ")]
    for share, bound in zip(measured, said, strict=True):
        assert share <= bound <= share + 0.3, f"{measured} where docs/workspaces.md says {said}"


def test_every_operator_has_a_row() -> None:
    assert list(documented()) == list(OPERATORS) == list(CALLS)
    assert all(float(share) < 3 for row in documented().values() for said in row for share in said.split(" / "))
