"""max_pool2d, 3 x 3 at stride 2, in its three places."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator, by_entry


def plain(layer, input):
    return F.max_pool2d(input, kernel_size=3, stride=2)


bench_max_pool2d = compares(Operator("max_pool2d", lambda layers: layers.poolings, by_entry("max_pool2d"), plain))
