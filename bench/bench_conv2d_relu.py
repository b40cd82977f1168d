"""conv2d_relu on every convolution."""

import torch
from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator, by_entry


def plain(layer, input, weight, bias):
    return F.relu(F.conv2d(input, weight, bias, layer.stride, layer.padding, groups=layer.groups))


def cudnn(layer, input, weight, bias):
    stride, padding, dilation = (layer.stride,) * 2, (layer.padding,) * 2, (1, 1)
    return torch.cudnn_convolution_relu(input, weight, bias, stride, padding, dilation, layer.groups)


bench_conv2d_relu = compares(
    Operator("conv2d_relu", lambda layers: layers.convolutions, by_entry("conv2d_relu"), plain, cudnn=cudnn)
)
