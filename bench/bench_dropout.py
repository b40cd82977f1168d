"""dropout in front of the classifier's layers."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator, by_entry

P = 0.5


def plain(layer, input):
    return F.dropout(input, P)


def kept(layer, input):
    return input.clone()


bench_dropout = compares(
    Operator("dropout", lambda layers: layers.dropouts, by_entry("dropout"), plain, reference=kept, p=P)
)
