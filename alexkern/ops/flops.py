"""FLOP counters (torch.utils.flop_counter) count of the dispatcher's operators what they count of torch's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from alexkern import dispatch

COUNTER = "torch.utils.flop_counter"


def register(names: Iterable[str]) -> None:
    """Give the counter a formula for each operator and its backward, now or once somebody imports it.

    Importing it here would take a third of a second, and import Triton.
    """
    if COUNTER in sys.modules:
        _register(sys.modules[COUNTER], names)
    else:
        sys.meta_path.insert(0, _Waiting(names))


def _register(counter: ModuleType, names: Iterable[str]) -> None:
    for name in names:
        definition = dispatch.definition(name)
        for packet, function in ((name, definition.forward), (f"{name}_backward", definition.backward)):
            formula = partial(_flops, counter, function)
            counter.register_flop_formula(getattr(torch.ops.alexkern, packet), get_raw=True)(formula)


def _flops(counter: ModuleType, function: Callable[..., Any], backend: str, *args: Any, out_val: Any) -> int:
    args = tree_map_only(Tensor, lambda tensor: torch.empty_like(tensor, device="meta"), args)
    with counter.FlopCounterMode(display=False) as counted, torch.no_grad():
        function(*args)
    return int(counted.get_total_flops())


class _Waiting(MetaPathFinder):
    """Finds the counter's module, once, as one that registers the formulas behind its own code."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register(module, self.names)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
