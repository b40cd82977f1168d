"""dropout in front of the classifier's layers."""

from torch.nn import functional as F

from alexkern.bench.comparison import compares
from alexkern.bench.operators import Operator
from alexkern.functional import dropout

P = 0.5


def ours(layer, input):
    return dropout(input, P)


def plain(layer, input):
    return F.dropout(input, P)


def kept(layer, input):
    return input.clone()


bench_dropout = compares(Operator("dropout", lambda layers: layers.dropouts, ours, plain, reference=kept, p=P))
