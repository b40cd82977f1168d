"""The operators as functions, with torch.nn.functional's names, argument order and defaults.

Each has a file of its own name in alexkern/ops (checks, shapes, autograd), alexkern/backends/torch (its definition in
torch operators), kernels (Triton) and csrc/cuda (CUDA C++).
"""

from alexkern import dispatch
from alexkern.ops.augment import augment
from alexkern.ops.conv2d_relu import conv2d_relu
from alexkern.ops.conv2d_relu_max_pool2d import conv2d_relu_max_pool2d
from alexkern.ops.dropout import dropout
from alexkern.ops.linear_relu_dropout import linear_relu_dropout
from alexkern.ops.local_response_norm import local_response_norm
from alexkern.ops.max_pool2d import max_pool2d

__all__ = [
    "augment",
    "conv2d_relu",
    "conv2d_relu_max_pool2d",
    "dropout",
    "linear_relu_dropout",
    "local_response_norm",
    "max_pool2d",
]

dispatch.check_disabled(__all__)
