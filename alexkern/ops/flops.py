"""FLOP counters (torch.utils.flop_counter) count of the dispatcher's operators what they count of torch's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

COUNTER = "torch.utils.flop_counter"
_definitions: dict[Any, Callable[..., Any]] = {}  # of packets of the dispatcher, in torch's operators


def register(packet: Any, definition: Callable[..., Any]) -> None:
    """`packet(backend, *args)` is counted as `definition(*args)`."""
    _definitions[packet] = definition
    if COUNTER in sys.modules:
        _tell(sys.modules[COUNTER], packet)


def _tell(counter: ModuleType, packet: Any) -> None:
    def flops(backend: str, *args: Any, out_val: Any) -> int:
        args = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: torch.empty_like(tensor, device="meta"), args)
        with counter.FlopCounterMode(display=False) as counted, torch.no_grad():
            _definitions[packet](*args)
        return int(counted.get_total_flops())

    counter.register_flop_formula(packet, get_raw=True)(flops)


class _Waiting(MetaPathFinder):
    """Tells the counter once somebody imports it: doing so here would take a third of a second, and import Triton."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for packet in _definitions:
                _tell(module, packet)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if COUNTER not in sys.modules:
    sys.meta_path.insert(0, _Waiting())
