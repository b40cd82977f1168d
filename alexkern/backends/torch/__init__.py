"""The torch backend: every operator's definition in torch operators, the CPU path, and the fallback everywhere.

The other backends are held to what these modules compute. Where torch's own operator would save more for backward
(int64 indices, a mask, the convolution's output), the backward here is written from what the design allows to be saved.
"""

from __future__ import annotations

import torch


def missing(device_type: str, dtype: torch.dtype) -> str | None:
    """Nothing is ever missing: this is torch itself."""
    return None
