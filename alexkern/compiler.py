"""torch.compile(model, backend="alexkern"): networks of any style, by the runs of layers in the graph they leave.

Dynamo captures a graph before autograd, in which a layer is a call, whoever made it: a module, a function or a method.
Calls are read as the modules of torch's that would make them, and from there on the table and the rules are those of a
FusedSequential (alexkern.nn.longest). A run of calls each of which is the only reader of the one before becomes a call
of alexkern.functional; everything else goes on as it is, to eager mode or to inductor.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from alexkern import captures, dispatch
from alexkern.errors import argument_error
from alexkern.nn import Match, folded, gains_by_channels_last, longest, to_channels_last
from alexkern.ops.checks import FLOATING
from alexkern.ops.layer import Layer, Reader, example, hinted
from alexkern.ops.registry import spellings
from alexkern.plan import is_channels_last

RESTS = ("eager", "inductor")
TENSORS = frozenset({"input", "weight", "bias", "running_mean", "running_var"})


def compile_graph(
    module: fx.GraphModule, inputs: list[Any], *, options: Mapping[str, Any] | None = None, mode: str | None = None
) -> Callable[..., Any]:
    """The backend, as torch.compile calls it.

    options: {"rest": "eager" or "inductor"}, what runs the calls that are no operator's; by default inductor on a GPU,
    and eager mode elsewhere. mode: inductor's, and a choice of it.
    """
    for name in options or {}:
        if name != "rest":
            raise argument_error("compiler", "options", f"{name!r}", "of the name 'rest', the only one there is")
    on_gpu = any(isinstance(value, Tensor) and value.is_cuda for value in inputs)
    rest = (options or {}).get("rest", "inductor" if on_gpu or mode is not None else "eager")
    if rest not in RESTS:
        raise argument_error("compiler", "options['rest']", f"{rest!r}", " or ".join(map(repr, RESTS)))
    rewriting = Rewriting(module.graph, inputs, compiled=rest == "inductor")
    rewriting.run()
    captures.keep((value for value in inputs if isinstance(value, nn.Parameter)), rewriting.runs)
    module.recompile()
    if rest == "eager":
        return module.forward
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx

    compiled: Any = compile_fx(module, inputs, config_patches=list_mode_options(mode) if mode else None)
    return cast(Callable[..., Any], compiled)


def relu(input: Any, inplace: bool = False) -> Layer:
    return Layer(kind=nn.ReLU, inplace=inplace)


def relu_(input: Any) -> Layer:
    return Layer(kind=nn.ReLU, inplace=True)


def batch_norm(
    input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Layer:  # fmt: skip
    kind = nn.BatchNorm2d if example(input).dim() == 4 else nn.BatchNorm1d
    parameters, buffers = {"weight": weight, "bias": bias}, {"running_mean": running_mean, "running_var": running_var}
    return Layer(kind=kind, _parameters=parameters, _buffers=buffers, training=training, momentum=momentum, eps=eps)


# Of layers that are no operator's own: torch's functions, by whatever name, and a tensor's methods.
OTHERS: dict[Any, Reader] = {
    F.relu: relu,
    torch.relu: relu,
    "relu": relu,
    F.relu_: relu_,
    torch.relu_: relu_,
    "relu_": relu_,
    F.batch_norm: batch_norm,
}
# What may stand between two calls of a run, besides the calls that are read: nothing is changed by it.
PURE = (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, "size", "dim")


signature = cache(inspect.signature)


def read(node: fx.Node) -> Layer | None:
    """The node as a layer on plain tensors with settings that are constants of the graph; None where it is none."""
    reader = OTHERS.get(node.target) or spellings().get(node.target)
    if reader is None or node.op not in ("call_function", "call_method"):
        return None
    try:
        given = signature(reader).bind(*node.args, **node.kwargs).arguments
    except TypeError:  # another form of the call
        return None
    for name, value in given.items():
        if name in TENSORS:
            if value is not None and not (isinstance(value, fx.Node) and is_plain(example(value))):
                return None
        elif nodes_in(value):
            return None
    layer = reader(**given)
    layer.input = given["input"]
    return layer


def layers_in(graph: fx.Graph) -> dict[fx.Node, Layer]:
    return {node: layer for node in graph.nodes if (layer := read(node)) is not None}


def path(node: fx.Node, layer: Layer) -> str:
    """Where the module stands that makes the call, from the captured one on; "" where none does."""
    where, kind = next(reversed((node.meta.get("nn_module_stack") or {"": ("", object)}).values()))
    return where.partition(".")[2] if isinstance(kind, type) and issubclass(kind, layer.kind) else ""


def nodes_in(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return found


def is_plain(value: Any) -> bool:
    return (
        type(value) in (FakeTensor, Tensor, nn.Parameter) and value.dtype in FLOATING and value.layout is torch.strided
    )


def folds(norm: Layer, layer: Layer, output: Tensor) -> bool:
    """Whether a call behind a layer is a scale and a shift of its channels, of which the filters have fewer numbers."""
    if (layer.kind, norm.kind, output.dim()) not in ((nn.Conv2d, nn.BatchNorm2d, 4), (nn.Linear, nn.BatchNorm1d, 2)):
        return False  # of an image alone, or of a sequence of rows, the second dimension is normalised, and is another
    return not norm.training and layer.weight.numel() <= hinted(output).numel()


class Rewriting:
    """One graph, in which runs of calls become calls of alexkern.functional.

    compiled: whether a compiler is to get the rest, which is then better off with the calls that torch would serve.
    """

    def __init__(self, graph: fx.Graph, inputs: list[Any], *, compiled: bool):
        self.graph, self.compiled = graph, compiled
        self.inputs = dict(zip(graph.find_nodes(op="placeholder"), inputs, strict=True))
        self.runs: list[captures.Run] = []
        self.own: set[fx.Node] = set()  # calls that were not there before
        self.restored: dict[fx.Node, fx.Node] = {}  # contiguous, as torch gives it: of what is channels_last

    def run(self) -> None:
        self.take_results_in_place()
        self.layers = layers_in(self.graph)
        for node in list(self.graph.nodes):
            if node in self.layers:
                self.replace(node)
        for restored in reversed(self.restored):
            if not restored.users:
                self.graph.erase_node(restored)

    def take_results_in_place(self) -> None:
        """What was written into is read by the name of the result from there on: they are one tensor."""
        behind = set(self.graph.nodes)
        for node in self.graph.nodes:
            behind.remove(node)
            layer = read(node)
            if layer is not None and layer.inplace:
                layer.input.replace_all_uses_with(node, behind.__contains__)

    def replace(self, first: fx.Node) -> None:
        """The run that begins with a call by one call, if there is one."""
        nodes = self.run_from(first)
        layers, norm = [self.layers[node] for node in nodes], None
        if len(layers) > 2 and folds(layers[1], layers[0], example(first)):
            norm = layers.pop(1)
        found = longest(layers, lambda layer: layer.kind, lambda layer: None)
        if not isinstance(found, Match):
            return
        input = example(layers[0].input)
        serves = dispatch.resolve_name(found.operator.name, input)
        if self.compiled and serves == "torch" and not (found.operator.pools and input.is_cpu):
            return
        if not self.compiled and all(type(size) is int for size in input.shape) and not found.gains(input):
            return
        del nodes[len(found.modules) + (norm is not None) :]
        name, count = found.operator.name, len(nodes)
        self.keep(nodes, lambda like: [(count, name, dispatch.resolve_name(name, like), "")])
        with self.graph.inserting_before(nodes[-1]):
            result = self.emit(found, norm)
        self.put(result, nodes)

    def keep(self, nodes: list[fx.Node], serving: Callable[[Tensor], Any]) -> None:
        """For a report."""
        layers = [self.layers[node] for node in nodes]
        weights = [id(self.inputs.get(layer._parameters.get("weight"), 0)) for layer in layers]
        paths, names = map(path, nodes, layers), (layer.kind.__name__ for layer in layers)
        self.runs.append(captures.Run(tuple(names), tuple(paths), tuple(weights), serving))

    def put(self, result: fx.Node, nodes: list[fx.Node]) -> None:
        """In the place of a run of calls."""
        last = nodes[-1]
        for value in (result, self.restored.get(result, result)):
            value.meta |= last.meta
        last.replace_all_uses_with(result)
        for layer in self.layers.values():
            layer.input = result if layer.input is last else layer.input
        for node in reversed(nodes):
            del self.layers[node]
            self.graph.erase_node(node)

    def run_from(self, node: fx.Node) -> list[fx.Node]:
        """Calls each of which is the only reader of the one before, with nothing between them that changes anything."""
        nodes = [node]
        while len(node.users) == 1:
            (reader,) = node.users
            layer, between = self.layers.get(reader), node.next
            if layer is None or layer.input is not node:
                break
            while between is not reader and self.is_pure(between):
                between = between.next
            if between is not reader:
                break
            nodes.append(node := reader)
        return nodes

    def only_reads(self, node: fx.Node) -> bool:
        """Whether nothing is written into what the call reads, through it or through a view that it makes."""
        return node.op == "output" or (self.is_pure(node) and node.target is not operator.getitem)

    def is_pure(self, node: fx.Node) -> bool:
        if node in self.layers:
            layer = self.layers[node]
            return not layer.inplace and not (layer._buffers and layer.training)
        return node.op in ("placeholder", "get_attr") or node.target in PURE or node in self.own

    def emit(self, found: Match, norm: Layer | None) -> fx.Node:
        """The call of an operator. As in a FusedSequential images stay channels_last from one to the next."""
        layer, arguments = found.modules[0], found.operator.arguments(*found.modules)
        input = layer.input
        restore = input in self.restored and all(map(self.only_reads, input.users))
        if norm is not None:
            statistics = norm._buffers | norm._parameters
            pair = self.call(folded, arguments["weight"], arguments["bias"], *statistics.values(), norm.eps)
            arguments["weight"], arguments["bias"] = (self.call(operator.getitem, pair, index) for index in (0, 1))
        if restore:
            input = self.restored[input]
        if layer.kind is nn.Conv2d and example(input).dim() == 4:
            images = hinted(example(input))
            gains = gains_by_channels_last(found, example(input).device, images.shape)
            if gains and not restore and not is_channels_last(images):
                input, restore = self.call(to_channels_last, input), not is_channels_last(layer.weight)
            elif restore and not gains:
                input, restore = layer.input, False
        result = self.call(found.operator.function, input, **arguments)
        if restore:
            self.restored[contiguous := self.call(Tensor.contiguous, result)] = result
            return contiguous
        return result

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        node = self.graph.call_function(function, args, kwargs)
        self.own.add(node)
        return node
