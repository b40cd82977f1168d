"""The CUDA C++ side of the static report: the operators' own launchers, rehearsed, and what nvcc makes of the kernels.

nvcc is needed, and no GPU. The launchers choose as on the chip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from unittest import mock

import torch

from alexkern.arithmetic import precision
from alexkern.backends import cuda
from alexkern.backends.cuda import sm90
from alexkern.cost.chips import Chip
from alexkern.tools.instantiations import demangled, instantiations
from alexkern.tools.objects import TARGETS, objects
from alexkern.tools.rehearsal import rehearsing
from alexkern.tools.sass import Code, Launched

NAMES = {int(target.rstrip("a")): target for target in TARGETS}  # what nvcc calls a chip's target
CPU = torch.device("cpu")


def reports(workloads: Sequence[Any], chip: Chip) -> Iterator[tuple[Any, str, Launched]]:
    """For every launch of every workload: the workload, its call, and what was found."""
    launches = list(_launches(workloads, chip))
    kernels = instantiations(objects(NAMES[chip.target]), [launch for _, _, launch in launches])
    known = {(kernel.operator, kernel.kernel): kernel for kernel in kernels}
    names = demangled([launch.kernel for _, _, launch in launches])
    for (workload, call, launch), name in zip(launches, names, strict=True):
        operator = name.partition("::")[0]  # the namespace is called after the folder
        made = known[operator, name.replace(f"{operator}::", "")]
        found = {field.name: getattr(made, field.name) for field in fields(Code)}
        yield workload, call, Launched(grid=launch.grid, **found)


def _launches(workloads: Sequence[Any], chip: Chip) -> Iterator[tuple[Any, str, Any]]:
    with _taken_for(chip), rehearsing() as launches:
        for workload in workloads:
            with precision(workload.arithmetic):
                for name, call in workload.calls(CPU, "cuda").items():
                    launches.clear()
                    call()
                    yield from [(workload, name, launch) for launch in launches]


@contextmanager
def _taken_for(chip: Chip) -> Iterator[None]:
    """Within the block the launchers of CPU tensors choose as on this chip."""
    capability = ".".join(map(str, chip.capability))
    with (
        mock.patch.dict(os.environ, ALEXKERN_EMULATE="1", ALEXKERN_EMULATE_CAPABILITY=capability),
        mock.patch.object(cuda, "EMULATED", chip),
        mock.patch.object(sm90, "EMULATED", chip),
    ):
        yield
