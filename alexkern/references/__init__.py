"""What every operator has to compute, written out in torch's operators, in any dtype, and calls to try it on.

Nothing here goes through a backend. `alexkern verify` holds every backend to these in float64.
"""

from __future__ import annotations

from alexkern.references import (
    conv2d_relu,
    conv2d_relu_max_pool2d,
    dropout,
    linear_relu_dropout,
    local_response_norm,
    max_pool2d,
)
from alexkern.references.reference import Reference

REFERENCES: dict[str, Reference] = {
    "conv2d_relu": conv2d_relu.REFERENCE,
    "conv2d_relu_max_pool2d": conv2d_relu_max_pool2d.REFERENCE,
    "max_pool2d": max_pool2d.REFERENCE,
    "dropout": dropout.REFERENCE,
    "linear_relu_dropout": linear_relu_dropout.REFERENCE,
    "local_response_norm": local_response_norm.REFERENCE,
}
