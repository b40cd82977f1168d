"""What serves float32 on a CPU, and bfloat16 where it has instructions for that: kernels of csrc/cpu where they are
faster, compiled as alexkern._cpu, else torch's.

The kernels are compiled for several instruction sets, of which the best that the processor has is taken, or the one
that ALEXKERN_CPU_ISA names.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from alexkern._environment import read
from alexkern.backends import extension
from alexkern.errors import BackendUnavailable


def missing(device_type: str, dtype: torch.dtype) -> str | None:
    """Why the backend cannot serve tensors of this dtype on this kind of device, or None where it can.

    Raises:
        BackendUnavailable: ALEXKERN_CPU_ISA names instructions that this processor has not.
    """
    if device_type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return f"csrc/cpu computes in float32 and bfloat16 on a CPU, not in {dtype} on {device_type}"
    if extension.cpu.module is None:
        return extension.cpu.why_not
    _choose_isa()
    if dtype == torch.bfloat16 and native().isa() != "avx512bf16":
        return f"csrc/cpu computes in {dtype} with avx512bf16, not with {native().isa()}"
    return None


def onednn_serves(weight: Tensor) -> bool:
    """Whether oneDNN's operators, which a snapshot's layers have too, take such weights."""
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return bool(on_cpu and (weight.dtype == torch.float32 or half))


def native() -> Any:
    """alexkern._cpu."""
    return extension.cpu.module


@functools.cache
def _choose_isa() -> None:
    wanted, module = read("ALEXKERN_CPU_ISA"), native()
    if wanted is None:
        return
    if wanted not in module.isas:
        raise BackendUnavailable(
            f"ALEXKERN_CPU_ISA is {wanted}, which this processor or alexkern._cpu has not: "
            f"wanted one of {', '.join(module.isas)}"
        )
    module.use(wanted)
