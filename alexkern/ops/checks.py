"""Checks that the operators share. They run on every call: the good case is a handful of C calls and nothing more."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from alexkern.errors import argument_error
from alexkern.geometry import Pair

Result = TypeVar("Result")

MOST = 2**28  # of a stride, padding, dilation or window: kernels count with 32 bits, and add some of them to a size
FLOATING = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})


def floating(operator: str, argument: str, value: Any) -> None:
    """`value` is a strided tensor of a dtype that the operators compute in."""
    if not isinstance(value, Tensor):
        raise TypeError(f"alexkern.{operator}: {argument} must be a Tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING:
        raise argument_error(operator, f"{argument}'s dtype", value.dtype, "float32, float16, bfloat16 or float64")
    if value.layout is not torch.strided:
        raise argument_error(operator, f"{argument}'s layout", value.layout, "torch.strided")


def operands(operator: str, input: Any, weight: Any, bias: Any) -> None:
    """Strided tensors of one dtype that the operators compute in, on one device; bias may be None."""
    if isinstance(input, Tensor) and isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor)):
        dtype, strided = input.dtype, torch.strided
        if (
            dtype in FLOATING
            and input.layout is strided
            and weight.dtype is dtype
            and weight.layout is strided
            and (bias is None or (bias.dtype is dtype and bias.layout is strided))
        ):
            # Devices are slow to make and compare.
            if input.is_cpu and weight.is_cpu and (bias is None or bias.is_cpu):
                return
            if input.device == weight.device and (bias is None or input.device == bias.device):
                return
    floating(operator, "input", input)
    like_input(operator, "weight", weight, input)
    if bias is not None:
        like_input(operator, "bias", bias, input)


def like_input(operator: str, argument: str, value: Any, input: Tensor) -> None:
    """`value` is a strided tensor with `input`'s dtype on `input`'s device; `input` has been found to be a good one."""
    floating(operator, argument, value)
    if value.dtype != input.dtype:
        raise argument_error(operator, f"{argument}'s dtype", value.dtype, f"input's, {input.dtype}")
    if value.device != input.device:
        raise argument_error(operator, f"{argument}'s device", value.device, f"input's, {input.device}")


def pair(operator: str, argument: str, value: Any, minimum: int) -> Pair:
    """`value` as (vertical, horizontal): an int stands for both, as in torch."""
    # The two usual forms first: asking for the abstract Sequence takes longer than all the rest.
    if type(value) is int:
        result = (value, value)
    elif type(value) is tuple and len(value) == 2:
        result = value
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) in (1, 2):
        result = (value[0], value[-1])
    else:
        result = (value, value)
    if not type(result[0]) is type(result[1]) is int:
        result = tuple(integer(operator, argument, entry, "an int or two ints", value) for entry in result)
    if not (minimum <= result[0] <= MOST and minimum <= result[1] <= MOST):
        raise argument_error(operator, argument, value, f"at least {minimum} and at most 2**28")
    return result


def integer(operator: str, argument: str, entry: Any, want: str = "an int", value: Any = None) -> Any:
    """`entry` as Python's int, or as the symbol that it is: torch takes NumPy's numbers too."""
    if type(entry) is int or isinstance(entry, torch.SymInt):
        return entry
    if isinstance(entry, bool) or not isinstance(entry, numbers.Integral):
        raise TypeError(f"alexkern.{operator}: {argument} must be {want}, got {entry if value is None else value!r}")
    return int(entry)


def probability(operator: str, p: Any, argument: str = "p") -> float:
    p = number(operator, argument, p)
    if not 0.0 <= p <= 1.0:
        raise argument_error(operator, argument, p, "a probability between 0 and 1")
    return p


def image(operator: str, shape: tuple[int, ...]) -> None:
    """`shape` is (N, C, H, W) or (C, H, W)."""
    if len(shape) not in (3, 4):
        raise argument_error(operator, "input", f"shape {tuple(shape)}", "(N, C, H, W) or (C, H, W)")


def number(operator: str, argument: str, value: Any) -> float:
    """`value` as Python's float, also where it is a number of NumPy's."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"alexkern.{operator}: {argument} must be a float, got {value!r}")
    return float(value)


def remembered(check: Callable[..., Result], input: Tensor, key: tuple[Hashable, ...]) -> Result:
    """check(*key), which depends on shapes and numbers alone, looked up where they are the same as in an earlier call.

    Not while torch.compile traces, nor for fake tensors and other subclasses, whose sizes may be symbols.
    """
    if torch.compiler.is_compiling() or (type(input) is not Tensor and type(input) is not torch.nn.Parameter):
        return check(*key)
    return _remembered(check, *key)


@functools.lru_cache(maxsize=1024)
def _remembered(check: Callable[..., Any], *key: Hashable) -> Any:
    return check(*key)
