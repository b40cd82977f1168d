"""conv2d_relu by torch: its convolution on the caller's tensors, then a ReLU in place, which is one pass already."""

from __future__ import annotations

from alexkern.backends.torch.conv2d_relu import backward, forward

__all__ = ["backward", "forward"]
