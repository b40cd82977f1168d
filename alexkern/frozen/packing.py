"""A snapshot's captured graph, in which chains of layers with its own weights become FrozenSequentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from weakref import ref

from torch import Tensor, fx, nn

from alexkern.compiler import Layer, Rewriting
from alexkern.frozen.modules import FrozenSequential

if TYPE_CHECKING:
    from alexkern.frozen.captured import Capture


def pack(module: fx.GraphModule, inputs: list[Any], capture: ref[Capture]) -> Callable[..., Any]:
    """What runs for the graph, of which `capture` keeps what was packed."""
    Packing(module.graph, inputs, capture).run()
    module.recompile()
    return module.forward


class Packing(Rewriting):
    """Chains of layers with tensors of the module's become calls of what was packed for them, other runs operators."""

    def __init__(self, graph: fx.Graph, inputs: list[Any], capture: ref[Capture]):
        super().__init__(graph, compiled=False)
        self.capture = capture
        owner = capture()
        there = set() if owner is None else owner.tensors()
        places = zip(graph.find_nodes(op="placeholder"), inputs, strict=True)
        self.tensors = {node for node, value in places if id(value) in there}

    def replace(self, first: fx.Node) -> None:
        weighs = self.layers[first].kind in (nn.Conv2d, nn.Linear)
        nodes = [*takewhile(self.is_packable, self.run_from(first))] if weighs else []
        if not nodes:
            return super().replace(first)
        layers = [self.layers[node] for node in nodes]
        with self.graph.inserting_before(nodes[-1]):
            result = self.call(self.chain(layers), layers[0].input, *(node for layer in layers for node in given(layer)))
        self.put(result, nodes)

    def is_packable(self, node: fx.Node) -> bool:
        layer = self.layers[node]
        return self.tensors.issuperset(given(layer)) and not (layer._buffers and layer.training)

    def chain(self, layers: list[Layer]) -> Callable[..., Tensor]:
        capture, recipes = self.capture, [recipe(layer) for layer in layers]
        words = repr(recipes)

        def make(tensors: tuple[Tensor, ...]) -> FrozenSequential:
            left = iter(tensors)
            return FrozenSequential(*(made(*recipe, left) for recipe in recipes))

        def chain(input: Any, *tensors: Tensor) -> Any:
            owner = capture()
            assert owner is not None
            return owner.chain(words, make, tensors).forward(input)

        return chain


def given(layer: Layer) -> list[fx.Node]:
    return [node for node in (*layer._parameters.values(), *layer._buffers.values()) if node is not None]


def recipe(layer: Layer) -> tuple[Any, ...]:
    """Class, settings, and which parameters and buffers there are."""
    settings = {name: value for name, value in vars(layer).items() if name not in ("kind", "input", "_parameters", "_buffers")}
    return layer.kind, settings, *({name: node is not None for name, node in own.items()} for own in (layer._parameters, layer._buffers))


def made(
    kind: type[nn.Module], settings: dict[str, Any], parameters: dict[str, bool], buffers: dict[str, bool],
    tensors: Iterator[Tensor],
) -> nn.Module:  # fmt: skip
    """The module that makes the call, of the next tensors. Its own __init__ would draw numbers for others."""
    module: nn.Module = object.__new__(kind)
    nn.Module.__init__(module)
    module.training = False
    vars(module).update(settings)
    module._parameters.update({name: next(tensors) if there else None for name, there in parameters.items()})  # type: ignore[misc]
    module._buffers.update({name: next(tensors) if there else None for name, there in buffers.items()})
    return module
