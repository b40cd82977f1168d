"""conv2d_relu_max_pool2d on the convolutions that a pooling follows."""

import torch
from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator
from alexkern.functional import conv2d_relu_max_pool2d


def ours(layer, input, weight, bias):
    return conv2d_relu_max_pool2d(input, weight, bias, layer.stride, layer.padding, groups=layer.groups)


def plain(layer, input, weight, bias):
    output = F.conv2d(input, weight, bias, layer.stride, layer.padding, groups=layer.groups)
    return F.max_pool2d(F.relu(output), kernel_size=3, stride=2)


def rounded(layer, input, weight, bias, dtype):
    """The windows' winners are those among rounded values: in 16 bits a good part of the gradient goes by them."""
    output = F.conv2d(input, weight, bias, layer.stride, layer.padding, groups=layer.groups)
    return F.max_pool2d(F.relu(output).to(dtype).float(), kernel_size=3, stride=2)


def cudnn(layer, input, weight, bias):
    stride, padding, dilation = (layer.stride,) * 2, (layer.padding,) * 2, (1, 1)
    output = torch.cudnn_convolution_relu(input, weight, bias, stride, padding, dilation, layer.groups)
    return F.max_pool2d(output, kernel_size=3, stride=2)


@compares(
    Operator(
        "conv2d_relu_max_pool2d",
        lambda layers: layers.pooled_convolutions,
        ours,
        plain,
        reference=rounded,
        rounds=True,
        cudnn=cudnn,
    )
)
def bench_conv2d_relu_max_pool2d(report):
    report()
