"""fuse(model): the whole of making an existing network fast; what it did, and the way back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alexkern import captures
from alexkern.console import printable, table
from alexkern.frozen import captured
from alexkern.frozen.modules import FrozenLayer, FrozenSequential, PackedConv2d, PackedLinear
from alexkern.frozen.step import ByOperator, Step
from alexkern.nn import Alone, FusedSequential, Match, changed_layers, match, watcher
from alexkern.ops import registry

M = TypeVar("M", bound=nn.Module)
OWN_FORWARD = "called by a forward of its parent's own"
NOT_FUSED = "not in a FusedSequential"
NO_RUN = "in no run of the captured graphs"
REACHED = 'torch.compile(model, backend="alexkern") reaches layers that a forward of one\'s own calls'
LAYERS = tuple(Alone.__subclasses__())  # those of alexkern.nn: each has torch's class for its base
TORCHS: dict[type, Any] = {FrozenSequential: nn.Sequential} | {
    kind: kind.__bases__[-1] for kind in (*LAYERS, FusedSequential, PackedConv2d, PackedLinear)
}


COULD_BE = {kind.__name__ for kind in registry.runs()}


def fuse(model: M) -> M:
    """Turn every module whose type is exactly nn.Sequential into a :class:`FusedSequential`, in place.

    Only the class is assigned: children, hooks, parameters, aliases, state_dict keys and slices stay what they are, and
    a subclass of Sequential is left alone, since its forward may be its own. A model with layers, but with no
    Sequential, stays as it is, and a warning says what reaches them.

    Args:
        model: any module: an AlexNet, a VGG, a Sequential.

    Returns:
        The same model.
    """
    modules = _modules("fuse", model)
    for module in modules:
        if type(module) is nn.Sequential:
            module.__class__ = FusedSequential
    if not any(isinstance(module, FusedSequential) for module in modules):
        if any(type(module) in (nn.Conv2d, nn.Linear) for module in modules[1:]):
            warnings.warn(
                f"alexkern.fuse: {type(model).__name__} has no nn.Sequential to fuse. {REACHED}", stacklevel=2
            )
    return model


def unfuse(model: M) -> M:
    """Turn every module of alexkern.nn back into torch's own, in place, again by its class alone.

    What a snapshot has packed goes, and so does what `freeze` was told of its images, mean and std. Its children stay
    as they are: in eval mode, with parameters that ask for no gradient.

    Args:
        model: any module, or a snapshot.

    Returns:
        The same model.
    """
    for module in _modules("unfuse", model):
        if isinstance(module, captured.Captured):
            captured.release(module)
        if type(module) in TORCHS:
            module.__class__ = TORCHS[type(module)]
            for name in ("_plan", "_gains"):
                vars(module).pop(name, None)
    return model


@dataclass(frozen=True)
class Entry:
    """Children that one operator stands for, or a layer that runs as it is, and why."""

    children: tuple[str, ...]  # names, as in named_modules()
    layers: tuple[str, ...]  # their classes
    operator: str = ""
    backend: str = ""
    why_plain: str = ""


@dataclass(frozen=True, repr=False)
class FusionReport:
    """What `alexkern.fusion_report` found, in the order of the children. Printing it gives a table."""

    entries: tuple[Entry, ...]

    @property
    def fused(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.operator)

    @property
    def plain(self) -> dict[str, str]:
        """Why each of the other layers runs as it is, by name."""
        return {entry.children[0]: entry.why_plain for entry in self.entries if not entry.operator}

    def __str__(self) -> str:
        rows = [("children", "layers", "operator", "backend", "plain because")]
        for entry in self.entries:
            names, layers = (", ".join(map(printable, words)) for words in (entry.children, entry.layers))
            rows.append((names, layers, entry.operator or "-", entry.backend, entry.why_plain))
        note = [REACHED] if OWN_FORWARD in self.plain.values() else []
        return "\n".join([*table(rows), *note])

    __repr__ = __str__


def fusion_report(model: nn.Module) -> FusionReport:
    """Which children run as which operator, on which backend, and why the other layers run as they are.
    It asks what a call would ask, about the model as it is now: hooks, settings, parameters, who watches. What it
    cannot know is the input: on one that is no plain floating tensor every child runs as it is. Layers that a snapshot
    has packed may have several ways to run for a backend, and conv2d or linear for an operator.

    Args:
        model: any module.

    Returns:
        A :class:`FusionReport`: an entry for every run of children that is fused, and for every layer of a kind that
        could be (Conv2d, Linear, MaxPool2d, Dropout, LocalResponseNorm) and is not. Of those that a forward of one's
        own calls it says so, and what reaches them. Of a model that torch.compile has captured for the backend
        "alexkern", and of a snapshot that was made with an example, it has what their graphs run at once, as of the
        newest: a layer that a function stands for, as F.relu does, has no child's name.

    Raises:
        TypeError: model is no module.
        BackendUnavailable: the backend that was asked for by name is not there, as a call would say.
    """
    _modules("fusion_report", model)
    parameters: list[Tensor] = [value for value in model.parameters() if value.is_floating_point()]
    like = parameters[0] if parameters else torch.empty(0)
    root = nn.Sequential()
    root._modules[""] = model
    return FusionReport(tuple(_entries("", root, like, watcher(like), changed_layers())))


def _captured_entries(path: str, model: nn.Module, like: Tensor) -> list[Entry]:
    """What the graphs of a compiled or captured module run at once; of each child what the newest of them does."""
    graphs = captured.report(model)
    if graphs is None:
        compiled = type(model).__name__ == "OptimizedModule" or model._compiled_call_impl is not None
        graphs = captures.kept(model.parameters()) if compiled else []
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        for own, tensor in module._parameters.items():
            layer = isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d))
            owners[id(tensor)] = path + (name if layer else f"{name}.{own}".removeprefix("."))
    found: list[Entry] = []
    prefix = ""  # of what was captured: a part of the model, or all of it
    for runs in graphs:
        claimed = {name for entry in found for name in entry.children}
        own_runs: list[Entry] = []
        for run in runs:
            names = [owners.get(weight, "") for weight in run.weights]
            parts = [*zip(names, run.paths, strict=True)]
            prefix = next((name.removesuffix(part) for name, part in parts if part and name.endswith(part)), prefix)
            names = [name or (prefix + part if part else "") for name, part in parts]
            index = 0
            for count, *what in run.serving(like):
                part = slice(index, index := index + count)
                entry = Entry(tuple(filter(None, names[part])), run.layers[part], *what)
                if entry.operator or (entry.children and COULD_BE.intersection(entry.layers)):
                    own_runs.append(entry)
        new = [entry for entry in own_runs if claimed.isdisjoint(entry.children)]
        if any(entry.children for entry in new) or not any(entry.children for entry in own_runs):
            found += [entry for entry in new if entry.children or entry not in found]
    return found


def _merged(model: nn.Module, path: str, found: list[Entry], rest: Iterator[Entry]) -> list[Entry]:
    """What graphs do, and the other children, in the order of the children."""
    claimed = {name for entry in found for name in entry.children}
    for entry in rest:
        if claimed.isdisjoint(entry.children):
            plain = entry.why_plain in (OWN_FORWARD, NOT_FUSED)
            found.append(replace(entry, why_plain=NO_RUN) if plain else entry)
    order = {f"{path}{name}": index for index, (name, _) in enumerate(model.named_modules())}
    return sorted(
        found, key=lambda entry: min((order.get(name, len(order)) for name in entry.children), default=len(order))
    )


def _entries(
    path: str, parent: nn.Module, like: Tensor, watching: str | None, changed: tuple[type, ...], own: bool = True
) -> Iterator[Entry]:
    """own: whether Sequentials and packed layers run by themselves, and not as parts of a captured graph."""
    forward, children = getattr(parent.forward, "__func__", None), tuple(parent._modules.values())
    steps: Iterator[Step] = iter(())  # of a snapshot
    packed = own and watching is None
    if packed and isinstance(parent, FrozenSequential) and forward is FrozenSequential.forward:
        steps = iter(parent._current().steps)
    names = iter([f"{path}{name}" for name in parent._modules])
    index = 0
    while index < len(children):
        child, step = children[index], next(steps, None)
        of_its_own = forward not in (nn.Sequential.forward, FusedSequential.forward, FrozenSequential.forward)
        found: Match | str = OWN_FORWARD if of_its_own or not own else NOT_FUSED
        if isinstance(child, Alone) and type(child) in LAYERS:
            found, step = Match(child.operator, (child,)), None
        elif isinstance(child, FrozenLayer) and packed:
            step = child.step()
        elif own and forward in (FusedSequential.forward, FrozenSequential.forward):
            found = watching or match(children, index, changed)
        if step is None:
            step = ByOperator(found) if isinstance(found, Match) else Step(child, why_plain=found)
        operator, backend, why_plain = step.serving(like)
        where = tuple(next(names) for _ in step.modules)
        if operator or isinstance(child, tuple(registry.runs())):
            yield Entry(where, tuple(type(module).__name__ for module in step.modules), operator, backend, why_plain)
        if not operator and child is not None:
            path_of = f"{where[0]}." if where[0] else ""
            graphs = _captured_entries(path_of, child, like) if watching is None else []
            alone = own and not (graphs and isinstance(child, captured.Captured))
            rest = _entries(path_of, child, like, watching, changed, alone)
            yield from _merged(child, path_of, graphs, rest) if graphs else rest
        index += len(step.modules)


def _modules(function: str, model: nn.Module) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"alexkern.{function}: model must be a torch.nn.Module, got {type(model).__name__}")
    return list(model.modules())
