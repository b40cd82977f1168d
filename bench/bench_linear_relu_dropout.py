"""linear_relu_dropout on the classifier's two large layers, training."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator, by_entry

P = 0.5


def plain(layer, input, weight, bias):
    return F.dropout(F.relu(F.linear(input, weight, bias)), P)


def kept(layer, input, weight, bias):
    return F.relu(F.linear(input, weight, bias))


bench_linear_relu_dropout = compares(
    Operator(
        "linear_relu_dropout",
        lambda layers: layers.linears,
        by_entry("linear_relu_dropout"),
        plain,
        reference=kept,
        p=P,
    )
)
