"""Triton kernels, one operator a file, imported as ``alexkern.kernels``.

A second copy under the name ``kernels`` would have its own compiled-kernel caches and its own classes, so the
top-level name is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

import torch

from alexkern.arithmetic import DTYPES
from alexkern.cache import place_triton_cache
from alexkern.cost.chips import unusable

if __name__ != "alexkern.kernels":
    raise ImportError(f"import {__name__}: the Triton kernels are the package alexkern.kernels; import that instead")


def why_not_compiled() -> str | None:
    """Why no kernel can be compiled here for a GPU that need not be there, or None where they can."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"triton cannot be imported ({error}): pip install triton, on Linux"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 is set, and interpreted kernels do not compile; unset it"
    return None


def missing(device_type: str, dtype: torch.dtype) -> str | None:
    """Why Triton cannot serve tensors of this dtype on this kind of device, or None where it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton, on Linux)"
    if dtype not in DTYPES:
        return f"Triton's kernels compute in float32, float16 and bfloat16, not in {dtype}"
    if os.environ.get("TRITON_INTERPRET") == "1":
        if device_type not in ("cpu", "cuda"):
            return f"Triton's interpreter takes CPU and CUDA tensors, not {device_type}"
        if dtype == torch.bfloat16:
            return "Triton's interpreter (TRITON_INTERPRET=1) computes bfloat16 wrong; use float32 or float16 there"
        return None
    if device_type == "cpu":
        return "Triton takes CPU tensors only in its interpreter (set TRITON_INTERPRET=1 before the process starts)"
    if device_type != "cuda" or torch.version.cuda is None:
        return f"Triton's kernels need an NVIDIA GPU and a torch built for CUDA, not {device_type}"
    if reason := unusable("Triton's kernels"):
        return reason
    try:
        place_triton_cache()
    except RuntimeError as error:
        return str(error)
    return None
