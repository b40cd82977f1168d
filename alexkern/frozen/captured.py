"""freeze(model, example) where a forward of one's own calls the layers: it runs as the graph that dynamo captures.

In the graph a layer is a call, whoever made it, and chains of layers with the snapshot's own weights are packed as
those of a FrozenSequential are: alexkern/frozen/packing.py.
"""

from __future__ import annotations

import copyreg
import warnings
from collections.abc import Callable, Iterator
from functools import partial, wraps
from inspect import signature
from itertools import chain
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import has_torch_function

from alexkern.captures import Run
from alexkern.frozen.convolution import Plan
from alexkern.frozen.modules import Frozen, FrozenLayer, FrozenSequential, capturing
from alexkern.frozen.step import tensors_of
from alexkern.nn import FusedSequential, Weighed, watcher

LEAST = 2**22  # multiply-adds of the steps that gain, from which on they save more than dynamo's guards take
# Snapshots of one class share a forward, and in torch before 2.13 its number of graphs too; from then on packed alone.
ISOLATED = {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}
TORCHS = {kind for file in vars(nn.modules).values() if isinstance(file, ModuleType)
          for kind in vars(file).values() if isinstance(kind, type) and issubclass(kind, nn.Module)}  # fmt: skip
MOST_CHANGES = 8  # of modules, after each of which a graph is captured anew


class Captured(nn.Module):
    """A module that runs as captured graphs where nobody watches, and by its class's own forward elsewhere."""

    __prepare_scriptable__ = FusedSequential.__prepare_scriptable__

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(max(protocol, 2))
        _, (kind, *arguments), *rest = reduced
        return _blank, (kind.__bases__[-1], *arguments), *rest


def captured(kind: type[nn.Module]) -> type[Captured]:
    """A model's class, with a forward that captures."""
    for other in (kind, *kind.__subclasses__()):
        if issubclass(other, Captured):
            return other
    own: Callable[..., Any] = kind.forward

    @wraps(own)
    def forward(self: Captured, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or _is_watched(args, kwargs):
            return own(self, *args, **kwargs)
        capture = _CAPTURES.get(self)
        if capture is None:
            capture = _CAPTURES[self] = Capture(self, own)
        return capture(self, *args, **kwargs)

    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (Captured, kind), names | {"forward": forward})


def _blank(kind: type[nn.Module], *arguments: Any) -> Any:
    """What copies and pickles begin with."""
    return copyreg.__newobj__(captured(kind), *arguments)  # type: ignore[attr-defined]


def outermost(module: nn.Module) -> Iterator[nn.Module]:
    """The modules with a forward of their own, the outer ones, that have weights outside of FrozenSequentials."""
    kind = type(module)
    if isinstance(module, FrozenLayer):
        return
    if kind is FrozenSequential or kind.forward is nn.Module.forward or kind in TORCHS:
        yield from chain.from_iterable(map(outermost, module.children()))
        return
    modules = [*module.modules()]
    inside = {child for each in modules if type(each) is FrozenSequential for child in each.children()}
    weights = tensors_of(each._parameters for each in modules if each not in inside)
    # One that says itself how it is pickled, as a GraphModule does, knows nothing of this.
    pickled = (kind.__reduce_ex__, kind.__reduce__) == (object.__reduce_ex__, object.__reduce__)
    if (pickled or issubclass(kind, Captured)) and any(weight.dim() > 1 for weight in weights):
        yield module


def release(module: nn.Module) -> None:
    """Back to the model's own class."""
    _CAPTURES.pop(module, None)
    module.__class__ = type(module).__bases__[-1]


def has_packed(module: nn.Module) -> bool:
    capture = _CAPTURES.get(module)
    return capture is not None and not capture.failed and len(capture.packed) > 0


class Capture(Weighed):
    """The graphs of a module, and the chains that were packed for them."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]):
        self.of, self.forward, self.failed = ref(module), forward, False
        self.packed: dict[tuple[Any, ...], FrozenSequential] = {}  # by what the layers are, and the ids of tensors
        self.paths: dict[str, list[str]] = {}  # of the modules that make the calls, by what the layers are
        self.runs: list[list[Run]] = []  # by operators, in each graph
        self.changes = 0
        self.begin()

    def begin(self) -> None:
        """For the modules that are there now. Their parameters, modes and attributes are dynamo's guards' to watch."""
        modules = [*self.module.modules()]
        for each in (self, *modules):
            if isinstance(each, Weighed):
                each._gains = {}
        self.children = [module._modules for module in modules if module._modules]
        self.own = [module.__dict__ for module in modules]  # which grow where a forward is set
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        self.hooks = [getattr(module, kind) for module in modules[1:] for kind in kinds]  # dynamo looks once
        self.state = self.state_of()
        own = ref(self)  # so that no cycle keeps what was packed

        def owner() -> Capture:
            capture = own()
            assert capture is not None
            return capture

        def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
            from alexkern.frozen.packing import pack

            return pack(graph, inputs, owner)

        compiler: Any = torch.compile
        self.run = compiler(self.forward, backend=backend, **ISOLATED)

    @property
    def module(self) -> nn.Module:
        module = self.of()
        assert module is not None
        return module

    def state_of(self) -> list[Any]:
        return [*chain.from_iterable(map(dict.values, self.children)), *map(len, self.own)]

    def __call__(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        key = self._key(*args, *kwargs.values())
        known = 1 if key is None else self._gains.get(key)
        if known == 0:
            return self.forward(module, *args, **kwargs)
        if self.state_of() != self.state:
            self.changes += 1
            self.begin()
        if not self.serves():
            return self.forward(module, *args, **kwargs)
        from torch._dynamo.exc import TorchDynamoException

        try:
            with capturing() as gains:
                output = self.run(module, *args, **kwargs)
            if known is None:
                self._keep(key, int(any(self.runs)) or sum(gains) // LEAST)
            return output
        except TorchDynamoException as error:
            said = str(error)
        output = self.forward(module, *args, **kwargs)
        self.failed = True
        warnings.warn(f"alexkern.freeze: {type(module).__name__} runs layer by layer: {said}", stacklevel=2)
        return output

    def serves(self) -> bool:
        return not (self.failed or self.changes > MOST_CHANGES or any(self.hooks))

    def tensors(self) -> set[int]:
        """The ids of what is packed: parameters and buffers, which the module keeps."""
        modules = self.module.modules()
        return {id(tensor) for each in modules for tensor in tensors_of((each._parameters, each._buffers))}

    def chain(self, words: str, make: Callable[..., FrozenSequential], tensors: tuple[Tensor, ...]) -> FrozenSequential:
        """Layers that follow one another in a graph, with tensors of this call: graphs share what was packed."""
        key = (words, *map(id, tensors))
        found = self.packed.get(key)
        if found is None:
            there = self.tensors()
            with torch.inference_mode(False):
                found = make(tensors)
            found._plan = Plan("0" if any(tensors[0] is weight for weight in self.heads()) else None, None)
            self.packed = {other: made for other, made in self.packed.items() if there.issuperset(other[1:])}
            self.packed[key] = found
        return found

    def heads(self) -> Iterator[Tensor | None]:
        """The weight of the model's first convolution, if it is here."""
        for module in self.module.modules():
            head = module._head() if isinstance(module, Frozen) else None
            if head is not None:
                yield head._parameters.get("weight")

    def report(self) -> list[list[Run]]:
        """What its graphs run at once: what was packed, and then, of the newest first, by operators."""
        packed = []
        for (words, *_), made in self.packed.items():
            kinds = (type(layer).__name__ for layer in made)
            weights = (id(layer._parameters.get("weight", 0)) for layer in made)
            packed.append(Run(tuple(kinds), tuple(self.paths[words]), tuple(weights), partial(_serving, made)))
        return [packed, *self.runs[::-1]]


def _serving(made: FrozenSequential, like: Tensor) -> list[tuple[int, str, str, str]]:
    return [(len(step.modules), *step.serving(like)) for step in made._current().steps]


def report(module: nn.Module) -> list[list[Run]] | None:
    """Of a module that runs by its graphs; None of another."""
    capture = _CAPTURES.get(module)
    return None if capture is None or not capture.serves() else capture.report()


# As what was packed for a module: it goes with it, and is in none of its copies.
_CAPTURES: WeakKeyDictionary[nn.Module, Capture] = WeakKeyDictionary()


def _is_watched(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether something traces, transforms or watches the call. Gradients and casts are dynamo's to see."""
    return (
        watcher(None) is not None
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or has_torch_function((*args, *kwargs.values()))
    )
