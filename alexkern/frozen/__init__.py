"""Inference snapshots: freeze() makes them, and their steps have an ordered list of ways to run a layer."""

from alexkern.frozen.convolution import FrozenConvolution
from alexkern.frozen.freeze import freeze
from alexkern.frozen.linear import FrozenLinear
from alexkern.frozen.modules import FrozenSequential

__all__ = ["FrozenConvolution", "FrozenLinear", "FrozenSequential", "freeze"]
