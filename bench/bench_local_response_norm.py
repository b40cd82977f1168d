"""local_response_norm in the 2012 network's two places."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator, by_entry


def plain(layer, input):
    return F.local_response_norm(input, layer.size, layer.alpha, layer.beta, layer.k)


bench_local_response_norm = compares(
    Operator("local_response_norm", lambda layers: layers.normalizations, by_entry("local_response_norm"), plain)
)
