"""Inference snapshots: freeze() makes them of modules, each of which has an ordered list of ways to run its layer."""

from alexkern.frozen.freeze import freeze
from alexkern.frozen.linear import FrozenLinear
from alexkern.frozen.modules import FrozenAdaptiveAvgPool2d, FrozenConvolution, FrozenSequential

__all__ = ["FrozenAdaptiveAvgPool2d", "FrozenConvolution", "FrozenLinear", "FrozenSequential", "freeze"]
