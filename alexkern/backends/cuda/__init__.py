"""The CUDA C++ kernels: one operator a file, whose forward and backward call the compiled module.

CUDA tensors are served by alexkern._cuda. CPU tensors are served by the same kernel sources on the host emulator, where
ALEXKERN_EMULATE=1 asks for that: slow, and meant for tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from alexkern._environment import read
from alexkern.arithmetic import DTYPES
from alexkern.backends import extension
from alexkern.backends.cuda import emulated
from alexkern.cost.chips import CHIPS, Chip, here, unusable

EMULATED = replace(CHIPS["A100"], num_sms=1)  # the emulator runs block after block


def missing(device_type: str, dtype: torch.dtype) -> str | None:
    """Why the CUDA kernels cannot serve tensors of this dtype on this kind of device, or None where they can."""
    if dtype not in DTYPES:
        return f"the CUDA kernels compute in float32, float16 and bfloat16, not in {dtype}"
    if device_type == "cpu":
        if not read("ALEXKERN_EMULATE"):
            return "CPU tensors are served by the emulator only (set ALEXKERN_EMULATE=1; it is slow, and for tests)"
        return emulated.missing()
    if device_type != "cuda" or torch.version.cuda is None:
        return f"the CUDA kernels need an NVIDIA GPU and a torch built for CUDA, not {device_type}"
    if extension.cuda.module is None:
        return extension.cuda.why_not
    return unusable("the CUDA kernels") or _old_driver(extension.cuda.module)


def _old_driver(native: ModuleType) -> str | None:
    driver, needed = native.driver_version(), (native.cuda_version[0], 0)
    if driver is not None and driver < needed:
        return (
            f"alexkern._cuda needs a driver for CUDA {needed[0]}.{needed[1]}, and the one here is for "
            f"{driver[0]}.{driver[1]}"
        )
    return None


def launch(kernel: str, tensor: Tensor, *arguments: Any) -> None:
    """Call the module's `kernel` with tensor's element type first, on its device, in the order of its current stream.

    The kernel runs after this has returned, in memory that its arguments point into: the caller keeps those tensors.
    """
    device_type = tensor.device.type
    function, element = _kernel(_module(device_type), kernel, tensor.dtype)
    if device_type == "cpu":
        function(element, *arguments, 0)
        return
    index = tensor.get_device()
    # What torch.cuda.current_stream(index).cuda_stream says, without making a Stream object at every launch.
    stream = torch._C._cuda_getCurrentRawStream(index)
    if index == torch._C._cuda_getDevice():
        function(element, *arguments, stream)
        return
    with torch.cuda.device(index):
        function(element, *arguments, stream)


def compiled(tensor: Tensor) -> Any:
    """The module that serves tensors on this one's device."""
    return _module(tensor.device.type)


def _module(device_type: str) -> Any:
    """A host pointer goes to the emulator and a GPU's to the compiled module, whatever else is there."""
    if device_type == "cpu":
        return emulated.load()
    if device_type == "cuda" and extension.cuda.module is not None:
        return extension.cuda.module
    reason = (
        extension.cuda.why_not if device_type == "cuda" else "they run on CUDA tensors and, emulated, on CPU tensors"
    )
    raise RuntimeError(f"alexkern: the CUDA kernels cannot serve a tensor on {device_type}: {reason}")


def chip_of(tensor: Tensor) -> Chip:
    """What csrc/cuda's launchers choose for."""
    return EMULATED if tensor.device.type == "cpu" else here(tensor.get_device())


@lru_cache(maxsize=256)
def _kernel(module: Any, name: str, dtype: torch.dtype) -> tuple[Callable[..., None], int]:
    return getattr(module, name), module.elements[str(dtype).removeprefix("torch.")]
