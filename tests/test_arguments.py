"""Bad input: one clear error that names the operator, the argument, what came and what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import alexkern
from alexkern import ArgumentError
from alexkern import functional as A

X = torch.zeros(2, 4, 8, 8)
W = torch.zeros(6, 4, 3, 3)
B = torch.zeros(6)
L, LW, LB = torch.zeros(3, 5), torch.zeros(7, 5), torch.zeros(7)

# what is called, the error, and the words it has to have
BAD: list[tuple[Callable[[], Any], type[Exception], tuple[str, ...]]] = [
    (lambda: A.conv2d_relu([1.0], W), TypeError, ("conv2d_relu", "input", "Tensor", "list")),
    (lambda: A.conv2d_relu(X, None), TypeError, ("conv2d_relu", "weight", "NoneType")),
    (lambda: A.conv2d_relu(X.int(), W.int()), ArgumentError, ("input's dtype", "int32", "float32")),
    (lambda: A.conv2d_relu(X, W.double()), ArgumentError, ("weight's dtype", "float64", "float32")),
    (lambda: A.conv2d_relu(X, W, B.half()), ArgumentError, ("bias's dtype", "float16")),
    (lambda: A.conv2d_relu(X, W.to("meta")), ArgumentError, ("weight's device", "meta", "cpu")),
    (lambda: A.conv2d_relu(X.to_sparse(), W), ArgumentError, ("input's layout", "strided")),
    (lambda: A.conv2d_relu(X[0, 0], W), ArgumentError, ("input", "(8, 8)", "(N, C, H, W)")),
    (lambda: A.conv2d_relu(X, W[0]), ArgumentError, ("weight", "(4, 3, 3)", "(K, C // groups, R, S)")),
    (lambda: A.conv2d_relu(X[:, :3], W), ArgumentError, ("channels", "3", "4")),
    (lambda: A.conv2d_relu(X, W[:, :2], groups=4), ArgumentError, ("channels", "2 * 4")),
    (lambda: A.conv2d_relu(X, W[:5, :2], groups=2), ArgumentError, ("weight.shape[0]", "5", "groups (2)")),
    (lambda: A.conv2d_relu(X, W, groups=0), ArgumentError, ("groups", "0", "at least 1")),
    (lambda: A.conv2d_relu(X, W, groups=True), TypeError, ("groups", "True")),
    (lambda: A.conv2d_relu(X, W, B[:5]), ArgumentError, ("bias", "(5,)", "(6,)")),
    (lambda: A.conv2d_relu(X, W, stride=0), ArgumentError, ("stride", "0", "at least 1")),
    (lambda: A.conv2d_relu(X, W, stride=1.5), TypeError, ("stride", "1.5")),
    (lambda: A.conv2d_relu(X, W, stride=(1, 1, 1)), TypeError, ("stride", "(1, 1, 1)")),
    (lambda: A.conv2d_relu(X, W, stride=(1, "2")), TypeError, ("stride",)),
    (lambda: A.conv2d_relu(X, W, padding=-1), ArgumentError, ("padding", "-1", "at least 0")),
    (lambda: A.conv2d_relu(X, W, padding="full"), ArgumentError, ("padding", "full", "same")),
    (lambda: A.conv2d_relu(X, W, stride=2, padding="same"), ArgumentError, ("padding", "stride")),
    (lambda: A.conv2d_relu(X, W, dilation=0), ArgumentError, ("dilation", "0")),
    (lambda: A.conv2d_relu(X, W, dilation=4), ArgumentError, ("input", "3x3", "dilation (4, 4)")),
    (lambda: A.conv2d_relu_max_pool2d(X[..., :4, :4], W), ArgumentError, ("conv2d_relu_max_pool2d", "too small")),
    (lambda: A.conv2d_relu_max_pool2d(X, W, pool_kernel_size=0), ArgumentError, ("pool_kernel_size", "0")),
    (lambda: A.conv2d_relu_max_pool2d(X, W, pool_stride=-2), ArgumentError, ("pool_stride", "-2")),
    (lambda: A.conv2d_relu_max_pool2d(X, W, pool_padding=2), ArgumentError, ("pool_padding", "half")),
    (lambda: A.max_pool2d(X[..., :2, :2], 3, 2), ArgumentError, ("max_pool2d", "2x2", "too small")),
    (lambda: A.max_pool2d(X, 3, 2, 2), ArgumentError, ("padding", "half")),
    (lambda: A.max_pool2d(X, "3"), TypeError, ("kernel_size", "'3'")),
    (lambda: A.max_pool2d(X[:, :0], 3), ArgumentError, ("input", "channel")),
    (lambda: A.max_pool2d(X[0, 0], 3), ArgumentError, ("input", "(8, 8)")),
    (lambda: A.max_pool2d(X.long(), 3), ArgumentError, ("input's dtype", "int64")),
    (lambda: A.dropout(X, 1.5), ArgumentError, ("dropout", "p", "1.5", "between 0 and 1")),
    (lambda: A.dropout(X, float("nan")), ArgumentError, ("p", "nan")),
    (lambda: A.dropout(X, "half"), TypeError, ("p", "'half'")),
    (lambda: A.dropout(X.long()), ArgumentError, ("input's dtype",)),
    (lambda: A.linear_relu_dropout(L, LW.t()), ArgumentError, ("input", "(3, 5)", "(*, 7)")),
    (lambda: A.linear_relu_dropout(L, LB), ArgumentError, ("weight", "(7,)", "(out_features, in_features)")),
    (lambda: A.linear_relu_dropout(L, LW, LB[:1]), ArgumentError, ("bias", "(1,)", "(7,)")),
    (lambda: A.linear_relu_dropout(L, LW, LB, -0.1), ArgumentError, ("p", "-0.1")),
    (lambda: A.linear_relu_dropout(torch.tensor(1.0), LW), ArgumentError, ("input", "()")),
    (lambda: A.local_response_norm(L, 5), ArgumentError, ("local_response_norm", "(3, 5)", "3 dimensions")),
    (lambda: A.local_response_norm(X, 0), ArgumentError, ("size", "0", "at least 1")),
    (lambda: A.local_response_norm(X, 2.5), TypeError, ("size", "2.5")),
    (lambda: A.local_response_norm(X, 5, alpha="1"), TypeError, ("alpha", "'1'")),
]


@pytest.mark.parametrize(("call", "error", "words"), BAD)
def test_says_what_is_wrong(call: Callable[[], Any], error: type[Exception], words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message.startswith("alexkern.") and "\n" not in message
    for word in words:
        assert word in message, message


def test_argument_error_is_what_torch_code_catches() -> None:
    assert issubclass(ArgumentError, RuntimeError) and issubclass(ArgumentError, ValueError)


def test_torch_spellings_are_taken() -> None:
    """One-element tuples, lists, an empty stride, integer numbers: what torch takes, the operators take."""
    assert A.conv2d_relu(X, W, B, [1], (1,), [1, 1]).shape == (2, 6, 8, 8)
    assert A.max_pool2d(X, [3], []).shape == (2, 4, 2, 2)
    assert A.max_pool2d(X, kernel_size=3, stride=None, ceil_mode=True).shape == (2, 4, 3, 3)
    assert A.local_response_norm(X, 5, 1, 1, 1).shape == X.shape
    assert A.dropout(input=X, p=0, training=True) is X
    assert A.dropout(X, 0.5, training=False) is X


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="auto, cpu, cuda, triton, torch"):
        alexkern.set_backend("tpu")
