"""conv2d_relu_max_pool2d on the convolutions that a pooling follows."""

from torch.nn import functional as F

from alexkern.bench import bench_conv2d_relu as convolution
from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator, by_entry


def plain(layer, input, weight, bias):
    return pooled(convolution.plain(layer, input, weight, bias))


def rounded(layer, input, weight, bias, dtype):
    """The windows' winners are those among rounded values: in 16 bits a good part of the gradient goes by them."""
    return pooled(convolution.plain(layer, input, weight, bias).to(dtype).float())


def cudnn(layer, input, weight, bias):
    return pooled(convolution.cudnn(layer, input, weight, bias))


def pooled(values):
    return F.max_pool2d(values, kernel_size=3, stride=2)


bench_conv2d_relu_max_pool2d = compares(
    Operator(
        "conv2d_relu_max_pool2d",
        lambda layers: layers.pooled_convolutions,
        by_entry("conv2d_relu_max_pool2d"),
        plain,
        reference=rounded,
        rounds=True,
        cudnn=cudnn,
    )
)
