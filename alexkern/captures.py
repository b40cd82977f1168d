"""What the graphs that torch.compile captured run at once, kept for `alexkern.fusion_report`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import NamedTuple

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

MOST_GRAPHS = 16  # of a parameter: the last ones


class Run(NamedTuple):
    """Calls of a graph that follow one another."""

    layers: tuple[str, ...]  # the classes that would make them
    paths: tuple[str, ...]  # of the modules that do, from what was captured on; "" where none does
    weights: tuple[int, ...]  # ids of their parameters, 0 where there is none
    serving: Callable[[Tensor], Iterable[tuple[int, str, str, str]]]  # how many by an operator, its backend, or why not


_graphs = WeakIdKeyDictionary()  # for a parameter, of the graphs that read it, numbered
_numbers = count()


def keep(parameters: Iterable[Tensor], runs: list[Run]) -> None:
    """The runs of a graph with these parameters."""
    graph = next(_numbers), runs
    for parameter in parameters:
        _graphs[parameter] = [*_graphs.get(parameter, ()), graph][-MOST_GRAPHS:]


def kept(parameters: Iterable[Tensor]) -> list[list[Run]]:
    """The graphs of a module with these parameters, the newest first."""
    found = dict(graph for parameter in parameters for graph in _graphs.get(parameter, ()))
    return [found[number] for number in sorted(found, reverse=True)]
