"""Autocast: what torch.autocast does to an operator's inputs. Asked only where some autocast is on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def autocast(*tensors: Any, dtype: torch.dtype | None = None) -> tuple[Any, ...]:
    """The tensors in the autocast dtype of their device, as torch casts a convolution's and a linear layer's; or in
    another, where half precision would not do."""

    def cast(tensor: Any) -> Any:
        # float64 stays as it is: torch does not take it for autocast's business.
        if not isinstance(tensor, Tensor) or tensor.dtype == torch.float64 or not tensor.is_floating_point():
            return tensor
        device = tensor.device.type
        return tensor.to(dtype or torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor

    return tuple(map(cast, tensors))
