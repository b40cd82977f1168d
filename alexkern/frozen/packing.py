"""A snapshot's captured graph, in which chains of layers with its own weights become FrozenSequentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from alexkern.compiler import Layer, Rewriting, path
from alexkern.frozen.modules import FrozenSequential

Owner = Callable[[], Any]  # the Capture that keeps what is packed: the graph itself may live on for a while


def pack(module: fx.GraphModule, inputs: list[Any], owner: Owner) -> Callable[..., Any]:
    """What runs for a captured graph."""
    packing = Packing(module.graph, inputs, owner)
    packing.run()
    owner().runs.append(packing.runs)
    module.recompile()
    return module.forward


class Packing(Rewriting):
    """Chains of layers with tensors of the module's become calls of what was packed for them, other runs operators."""

    def __init__(self, graph: fx.Graph, inputs: list[Any], owner: Owner):
        super().__init__(graph, inputs, compiled=False)
        self.owner, there = owner, owner().tensors()
        self.tensors = {node for node, value in self.inputs.items() if id(value) in there}

    def replace(self, first: fx.Node) -> None:
        weighs = self.layers[first].kind in (nn.Conv2d, nn.Linear)
        nodes = [*takewhile(self.is_packable, self.run_from(first))] if weighs else []
        if not nodes:
            return super().replace(first)
        layers = [self.layers[node] for node in nodes]
        with self.graph.inserting_before(nodes[-1]):
            tensors = [node for layer in layers for node in given(layer)]
            result = self.call(self.chain(nodes), layers[0].input, *tensors)
        self.put(result, nodes)

    def is_packable(self, node: fx.Node) -> bool:
        layer = self.layers[node]
        return self.tensors.issuperset(given(layer)) and not (layer._buffers and layer.training)

    def chain(self, nodes: list[fx.Node]) -> Callable[..., Any]:
        layers = [self.layers[node] for node in nodes]
        owner, recipes = self.owner, [recipe(layer) for layer in layers]
        words = repr(recipes)
        owner().paths[words] = [*map(path, nodes, layers)]

        def make(tensors: tuple[Tensor, ...]) -> FrozenSequential:
            left = iter(tensors)
            return FrozenSequential(*(made(recipe, left) for recipe in recipes))

        def chain(input: Any, *tensors: Tensor) -> Any:
            return owner().chain(words, make, tensors).forward(input)

        return chain


def given(layer: Layer) -> list[fx.Node]:
    return [node for node in (*layer._parameters.values(), *layer._buffers.values()) if node is not None]


class Recipe(NamedTuple):
    """Of a module that makes a call: class, settings, and which parameters and buffers there are."""

    kind: type[nn.Module]
    settings: dict[str, Any]
    parameters: dict[str, bool]
    buffers: dict[str, bool]


def recipe(layer: Layer) -> Recipe:
    others = ("kind", "input", "_parameters", "_buffers")
    settings = {name: value for name, value in vars(layer).items() if name not in others}
    there = ({name: node is not None for name, node in own.items()} for own in (layer._parameters, layer._buffers))
    return Recipe(layer.kind, settings, *there)


def made(recipe: Recipe, tensors: Iterator[Tensor]) -> nn.Module:
    """The module, of the next tensors. Its own __init__ would draw numbers for others."""
    module: nn.Module = object.__new__(recipe.kind)
    nn.Module.__init__(module)
    module.training = False
    vars(module).update(recipe.settings)
    places: Any = ((module._parameters, recipe.parameters), (module._buffers, recipe.buffers))
    for own, names in places:
        own.update({name: next(tensors) if there else None for name, there in names.items()})
    return module
