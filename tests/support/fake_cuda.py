"""torch.cuda on a CPU: what a graph captures is replayed, operator by operator, in the memory that it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """Keeps every operator that runs within the block."""

    def __init__(self, made: list[Callable[[], None]]) -> None:
        super().__init__()
        self.made = made

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        results = operator(*args, **(kwargs or {}))

        def again() -> None:
            for old, new in zip(tree_leaves(results), tree_leaves(operator(*args, **(kwargs or {}))), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

        self.made.append(again)
        return results


class Graph:
    def __init__(self, log: list[str]) -> None:
        self.made: list[Callable[[], None]] = []
        self.log = log

    def replay(self) -> None:
        self.log.append("replay")
        with torch.no_grad():
            for again in self.made:
                again()


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of torch.cuda's. What is asked of them is in the list, but for events, which are its length."""
    log: list[str] = []

    class Stream:
        def __init__(self, device: Any, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} waits for {other.name}")

    class Event:
        def __init__(self, enable_timing: bool = False) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = len(log)

        def synchronize(self) -> None:
            self.reached = True

        def elapsed_time(self, end: Event) -> int:
            assert end.reached
            return end.at - self.at

    @contextmanager
    def stream(of: Stream) -> Iterator[None]:
        log.append(f"on {of.name}")
        yield
        log.append(f"off {of.name}")

    @contextmanager
    def graph(of: Graph) -> Iterator[None]:
        log.append("capture")
        with Recorder(of.made):
            yield
        log.append("captured")

    fakes = {
        "Stream": Stream, "Event": Event, "stream": stream, "graph": graph, "CUDAGraph": lambda: Graph(log),
        "current_stream": lambda device=None: Stream(device, "current"),
        "synchronize": lambda device=None: log.append("synchronize"),
        "_sleep": lambda cycles: log.append(f"sleep {cycles}"),
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=25),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return log
