"""docs/workspaces.md says how much memory an operator asks for in between: the peak of what torch's allocator gives."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch

from alexkern.backends import cpu
from alexkern.backends.cpu import memory
from alexkern.ops.registry import OPERATORS
from alexkern.tools import rehearsal
from alexkern.tools.workloads import BACKWARD, FORWARD, TRAINING, workloads
from support.backends import DEVICE, why_missing
from support.peaks import held, launching_nothing, peak

PAGE = Path(__file__).parents[1] / "docs" / "workspaces.md"
ROW = re.compile(r"\| `(\w+)` " + r"\| ([\d.]+ / [\d.]+) " * 4 + r"\|")
BACKENDS = "torch", "cpu", "triton", "cuda"
LAYERS = "conv1", "conv2", "conv3", "pool1", "before fc7", "fc7", "norm1"


def documented() -> dict[str, list[str]]:
    rows = (ROW.match(line) for line in PAGE.read_text().splitlines())
    return {row[1]: list(row.groups()[1:]) for row in rows if row}


@torch.no_grad()
def shares(operator: str, backend: str) -> list[float]:
    """Of forward and backward: the largest of the layers' workspaces, as a share of what the call reads and returns."""
    most = {FORWARD: 0.0, BACKWARD: 0.0}
    for workload in workloads(("alexnet", "alexnet_2012"), ("float32",), (8,), (operator,), LAYERS):
        calls = workload.calls(DEVICE, backend)
        for name, call in ((FORWARD, calls.get(TRAINING, calls[FORWARD])), (BACKWARD, calls[BACKWARD])):
            assert isinstance(call, partial)
            results, besides = peak(call)
            most[name] = max(most[name], besides / held((*call.args, *results)))
    return list(most.values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_peaks(operator: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = rehearsal.missing() if backend == "cuda" and DEVICE.type == "cpu" else why_missing(backend, operator)
    if lacking is not None:
        pytest.skip(lacking)
    monkeypatch.setattr(memory, "limit", lambda: 0)  # recycled memory is not torch's
    if backend == "cpu":
        monkeypatch.setattr(cpu.native(), "amd", True)  # where most is ours, whoever made this processor
    with launching_nothing(backend, monkeypatch):
        measured = shares(operator, backend)
    said = [float(share) for share in documented()[operator][BACKENDS.index(backend)].split(" / ")]
    for share, bound in zip(measured, said, strict=True):
        # A GPU's tiles, and with them partial sums, are its own.
        fits = share <= bound <= share + 0.3 if DEVICE.type == "cpu" else share < 3
        assert fits, f"{measured} where docs/workspaces.md says {said}"


def test_every_operator_has_a_row() -> None:
    assert list(documented()) == list(OPERATORS)
    assert all(float(share) < 3 for row in documented().values() for said in row for share in said.split(" / "))
