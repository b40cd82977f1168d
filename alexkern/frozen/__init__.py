"""Inference snapshots: freeze() makes them, and their steps have an ordered list of ways to run a layer."""

from alexkern.frozen.freeze import freeze
from alexkern.frozen.modules import FrozenSequential

__all__ = ["FrozenSequential", "freeze"]
