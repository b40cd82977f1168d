"""local_response_norm in the 2012 network's two places."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator
from alexkern.functional import local_response_norm


def ours(layer, input):
    return local_response_norm(input, layer.size, layer.alpha, layer.beta, layer.k)


def plain(layer, input):
    return F.local_response_norm(input, layer.size, layer.alpha, layer.beta, layer.k)


bench_local_response_norm = compares(Operator("local_response_norm", lambda layers: layers.normalizations, ours, plain))
