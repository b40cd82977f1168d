"""conv2d_relu on every convolution."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator
from alexkern.functional import conv2d_relu


def ours(layer, input, weight, bias):
    return conv2d_relu(input, weight, bias, layer.stride, layer.padding, groups=layer.groups)


def plain(layer, input, weight, bias):
    return F.relu(F.conv2d(input, weight, bias, layer.stride, layer.padding, groups=layer.groups))


@compares(Operator("conv2d_relu", lambda layers: layers.convolutions, ours, plain))
def bench_conv2d_relu(report):
    report()
