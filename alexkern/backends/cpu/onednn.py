"""oneDNN, which computes a snapshot's layers on a CPU where csrc/cpu does not."""

from __future__ import annotations

import torch
from torch import Tensor


def serves(weight: Tensor) -> bool:
    """Whether oneDNN's operators take such weights."""
    half = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return bool(on_cpu and (weight.dtype == torch.float32 or half))
