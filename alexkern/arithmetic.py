"""What is computed in: the tensors' dtype, and how torch multiplies matrices of float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

ARITHMETIC = {
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "float16": (torch.float16, "ieee"),
    "bfloat16": (torch.bfloat16, "ieee"),
}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # of kernels for GPUs


@contextmanager
def precision(arithmetic: str) -> Iterator[None]:
    """Within the block torch's setting for float32 products is this arithmetic's."""
    settings: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = ARITHMETIC[arithmetic][1]
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
