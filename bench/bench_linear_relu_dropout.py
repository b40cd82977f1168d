"""linear_relu_dropout on the classifier's two large layers, training."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator
from alexkern.functional import linear_relu_dropout

P = 0.5


def ours(layer, input, weight, bias):
    return linear_relu_dropout(input, weight, bias, P)


def plain(layer, input, weight, bias):
    return F.dropout(F.relu(F.linear(input, weight, bias)), P)


def kept(layer, input, weight, bias):
    return F.relu(F.linear(input, weight, bias))


bench_linear_relu_dropout = compares(
    Operator("linear_relu_dropout", lambda layers: layers.linears, ours, plain, reference=kept, p=P)
)
