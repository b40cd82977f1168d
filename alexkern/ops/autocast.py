"""Autocast: what torch.autocast does to an operator's inputs. Asked only where some autocast is on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_autocast_dtype(*tensors: Any) -> tuple[Any, ...]:
    """The tensors in the autocast dtype of their device: what torch does to a convolution's and a linear layer's."""
    return tuple(_cast(tensor, None) for tensor in tensors)


def to_float32(*tensors: Any) -> tuple[Any, ...]:
    """The tensors in float32: what torch does where half precision would not do."""
    return tuple(_cast(tensor, torch.float32) for tensor in tensors)


def _cast(tensor: Any, dtype: torch.dtype | None) -> Any:
    # float64 stays as it is: torch does not take it for autocast's business.
    if not isinstance(tensor, Tensor) or tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor
    device_type = tensor.device.type
    if not torch.is_autocast_enabled(device_type):
        return tensor
    return tensor.to(torch.get_autocast_dtype(device_type) if dtype is None else dtype)
