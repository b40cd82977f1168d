"""What serves CPU tensors by csrc/cpu, compiled as alexkern._cpu."""

from __future__ import annotations

import torch

from alexkern.backends import extension


def missing(device_type: str, dtype: torch.dtype) -> str | None:
    """Why csrc/cpu cannot serve tensors of this dtype on this kind of device, or None where it can."""
    if device_type != "cpu" or dtype != torch.float32:
        return f"csrc/cpu computes in float32 on a CPU, not in {dtype} on {device_type}"
    if extension.cpu.module is None:
        return extension.cpu.why_not
    if not extension.cpu.module.winograd_is_supported():
        return "the processor has no AVX-512, or alexkern._cpu was built without OpenMP"
    return None
