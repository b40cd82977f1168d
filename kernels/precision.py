"""How float32 matrix products are computed: exactly when torch says "tf32", in TF32.

The getter is what torch.backends.cudnn.conv.fp32_precision and torch.backends.cuda.matmul.fp32_precision read; asked
directly it costs a sixth. (The older allow_tf32 raises once the newer setting was used.)
"""

from __future__ import annotations

import torch


def input_precision(dtype: torch.dtype, operation: str) -> str:
    """tl.dot's input_precision, "tf32" or "ieee", for a "conv" or a "matmul". It has no meaning for 16-bit operands."""
    if dtype == torch.float32 and torch._C._get_fp32_precision_getter("cuda", operation) == "tf32":
        return "tf32"
    return "ieee"
