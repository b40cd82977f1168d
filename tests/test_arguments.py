"""Bad input: one clear error that names the operator, the argument, what came and what is wanted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import alexkern
from alexkern import ArgumentError
from alexkern import functional as A
from alexkern.ops.registry import OPERATORS
from support.backends import serving
from support.cases import cases

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
    (lambda: A.conv2d_relu(X[..., :2, :], W), ArgumentError, ("input", "(2, 4, 2, 8)", "3x3")),
    (lambda: A.conv2d_relu(X[..., :2], W), ArgumentError, ("input", "(2, 4, 8, 2)", "3x3")),
    (lambda: A.conv2d_relu(X, W[:, :, :0]), ArgumentError, ("weight", "(6, 4, 0, 3)", "1x1")),
    (lambda: A.conv2d_relu(X, W[..., :0]), ArgumentError, ("weight", "(6, 4, 3, 0)", "1x1")),
    (lambda: A.conv2d_relu_max_pool2d(X[..., :4, :4], W), ArgumentError, ("conv2d_relu_max_pool2d", "too small")),
    (lambda: A.conv2d_relu_max_pool2d(X[..., :4, :], W), ArgumentError, ("conv2d_relu_max_pool2d", "too small")),
    (lambda: A.conv2d_relu_max_pool2d(X[..., :4], W), ArgumentError, ("conv2d_relu_max_pool2d", "too small")),
    (lambda: A.conv2d_relu_max_pool2d(X, W, pool_kernel_size=0), ArgumentError, ("pool_kernel_size", "0")),
    (lambda: A.conv2d_relu_max_pool2d(X, W, pool_stride=-2), ArgumentError, ("pool_stride", "-2")),
    (lambda: A.conv2d_relu_max_pool2d(X, W, pool_padding=2), ArgumentError, ("pool_padding", "half")),
    (lambda: A.max_pool2d(X[..., :2, :2], 3, 2), ArgumentError, ("max_pool2d", "2x2", "too small")),
    (lambda: A.max_pool2d(X[..., :2, :], 3, 2), ArgumentError, ("max_pool2d", "2x8", "too small")),
    (lambda: A.max_pool2d(X[..., :2], 3, 2), ArgumentError, ("max_pool2d", "8x2", "too small")),
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
    (lambda: A.conv2d_relu(X, W, stride=np.float64(2)), TypeError, ("stride", "np.float64(2.0)")),
    (lambda: A.conv2d_relu(X, W, groups=np.True_), TypeError, ("groups", "np.True_")),
    (lambda: A.max_pool2d(X, np.int64(0)), ArgumentError, ("kernel_size", "at least 1")),
    (lambda: A.dropout(X, np.float32(2)), ArgumentError, ("p", "2.0", "between 0 and 1")),
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


def in_numpy(value: Any) -> Any:
    """An argument with NumPy's numbers in place of Python's."""
    if isinstance(value, tuple):
        return tuple(map(in_numpy, value))
    return {int: np.int64, float: np.float32}.get(type(value), lambda value: value)(value)


@pytest.mark.parametrize("name", OPERATORS)
def test_numbers_of_numpy_are_taken(name: str, generator: torch.Generator) -> None:
    """In all arguments of all cases; of reals those that float32 has exactly."""
    for case in cases(name):
        exact = {
            key: np.float32(value).item() if type(value) is float else value for key, value in case.arguments.items()
        }
        tensors = case.draw(torch.float32, torch.device("cpu"), generator)
        results = []
        for arguments in (exact, {key: in_numpy(value) for key, value in exact.items()}):
            torch.manual_seed(0)
            results.append(replace(case, arguments=arguments).call(*tensors))
        assert torch.equal(*results), case


@pytest.mark.parametrize("way", [alexkern.fuse, alexkern.freeze])
def test_numbers_of_numpy_are_taken_from_layers(
    way: Callable[[nn.Module], nn.Module], generator: torch.Generator
) -> None:
    two, three = np.int64(2), np.int32(3)
    model = nn.Sequential(
        *(nn.Conv2d(two, np.int64(6), three, two, np.int64(1), groups=two), nn.ReLU(), nn.MaxPool2d(two, np.int64(1))),
        *(nn.LocalResponseNorm(three, np.float32(1e-3)), nn.MaxPool2d(three, two, np.int64(1)), nn.Flatten()),
        *(nn.Linear(np.int64(24), two), nn.ReLU(), nn.Dropout(np.float64(0.5))),
    ).eval()
    images = torch.randn(2, 2, 9, 9, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(way(copy.deepcopy(model))(images), model(images))


@pytest.mark.parametrize("backend", serving("conv2d_relu"))
@pytest.mark.parametrize("groups", [1, 2])
def test_without_channels_the_bias_is_left(backend: str, groups: int, generator: torch.Generator) -> None:
    """Where torch's conv2d gives no channels either; its linear gives the bias, as ours by a case of its own."""
    bias = torch.randn(4, generator=generator, requires_grad=True)
    filters = torch.zeros(4, 0, 3, 3, requires_grad=True)
    for images in (torch.zeros(2, 0, 8, 8), torch.zeros(0, 8, 8)):
        with alexkern.backend(backend):
            plain = A.conv2d_relu(images, filters, bias, padding=1, groups=groups)
            pooled = A.conv2d_relu_max_pool2d(images, filters, bias, padding=1, groups=groups)
        for output, size in ((plain, 8), (pooled, 3)):
            assert torch.equal(output, bias.relu()[:, None, None].expand(*images.shape[:-3], 4, size, size))
            gradients = torch.autograd.grad(output.sum(), (filters, bias))
            assert gradients[0].shape == filters.shape
            assert torch.equal(gradients[1], (bias > 0) * output[..., 0, :, :].numel() * 1.0)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("way", [alexkern.fuse, alexkern.freeze])
def test_a_layer_without_channels_is_torch_s(way: Callable[..., nn.Module]) -> None:
    plain = nn.Sequential(nn.Conv2d(0, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(0, 5), nn.ReLU()).eval()
    with torch.no_grad():
        want = plain(torch.zeros(2, 0, 8, 8))
        assert torch.equal(way(copy.deepcopy(plain))(torch.zeros(2, 0, 8, 8)), want)
