"""CUDA graphs: a model's inference, or any function of tensors of fixed shapes, launched by one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alexkern.console import first_line
from alexkern.errors import argument_error

M = TypeVar("M", bound=nn.Module)
WARM_UP = 3  # calls before the capture: libraries choose their algorithms and allocate their workspaces


def graph(model: M, example: Tensor) -> M | GraphedModel:
    """Capture a model's inference in a CUDA graph: one launch for the whole network.

    What makes a small batch slow on a GPU is launching its kernels one by one; a graph does it once. The result is a
    callable for inputs like the example. It reads the model's parameters where they are, so values written into them
    in place (an optimiser's step, load_state_dict) are seen; parameters put in another place are not.

    Args:
        model: a module in eval mode, with its parameters on the example's device.
        example: a batch as the model will get it: shape, dtype and device are fixed by it.

    Returns:
        A :class:`GraphedModel`; on a CPU the model itself, with a warning, since there is nothing to capture.

    Raises:
        TypeError: an argument of the wrong type.
        ArgumentError: (a ValueError and a RuntimeError) a model in training mode, on another device, or with forward
            hooks; an example that requires a gradient.
        RuntimeError: the model does something that cannot be captured: it reads a value back to the host, as .item()
            does, copies between devices, or decides by the data.
    """
    check_model("graph", model, example)
    if model.training:
        raise argument_error("graph", "model", "one in training mode", "in eval mode (model.eval())")
    if example.requires_grad:
        raise argument_error("graph", "example", "one that requires a gradient", "a tensor without: a graph infers")
    hooked = [name for name, module in model.named_modules() if module._forward_hooks or module._forward_pre_hooks]
    if hooked:
        raise argument_error(
            "graph", "model", f"hooks on {hooked[0]!r}", "without forward hooks: a graph never calls one"
        )
    if example.device.type != "cuda":
        warnings.warn("alexkern.graph: a CUDA graph needs a GPU; the model is returned as it is", stacklevel=2)
        return model
    return GraphedModel(model, example)


def check_model(function: str, model: Any, example: Any) -> None:
    """A module and a tensor on one device."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"alexkern.{function}: model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(example, Tensor):
        raise TypeError(f"alexkern.{function}: example must be a Tensor, got {type(example).__name__}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device != example.device:
            came = f"{name} on {tensor.device}, example on {example.device}"
            raise argument_error(function, "model and example", came, "on one device")


class Graphed:
    """A function of tensors, captured once and replayed with other values. Made for CUDA tensors alone."""

    def __init__(self, function: Callable[..., Any], examples: Sequence[Tensor], what: str) -> None:
        self.inputs = tuple(example.detach().clone() for example in examples)
        self.graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(self.inputs[0].device)
        try:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    function(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self.graph):
                self.outputs = function(*self.inputs)
        except RuntimeError as error:
            raise RuntimeError(f"alexkern.graph: {what} cannot be captured: {first_line(error)}") from error

    def replay(self, *values: Tensor) -> Any:
        """Run it on these values; what comes back lies where the next replay will write."""
        for input, value in zip(self.inputs, values, strict=True):
            input.copy_(value, non_blocking=True)
        self.graph.replay()
        return self.outputs


class GraphedModel:
    """A model's inference as a CUDA graph: call it with inputs like the example. Made by :func:`graph`."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.model = model
        with torch.no_grad():
            self._graphed = Graphed(model, [example], type(model).__name__)

    def __call__(self, input: Tensor) -> Any:
        """What the model gives for the input, as tensors of its own."""
        check_like("graph", "input", input, self._graphed.inputs[0])
        return torch.utils._pytree.tree_map_only(Tensor, Tensor.clone, self._graphed.replay(input))

    def __repr__(self) -> str:
        example = self._graphed.inputs[0]
        return f"GraphedModel({type(self.model).__name__}, {tuple(example.shape)}, {example.dtype})"


def check_like(operator: str, argument: str, value: Any, example: Tensor) -> None:
    """`value` has the shape, dtype and device that were captured."""
    if not isinstance(value, Tensor):
        raise TypeError(f"alexkern.{operator}: {argument} must be a Tensor, got {type(value).__name__}")
    for name in ("shape", "dtype", "device"):
        came, wanted = getattr(value, name), getattr(example, name)
        if came != wanted:
            came, wanted = (tuple(v) if name == "shape" else v for v in (came, wanted))
            raise argument_error(operator, f"{argument}'s {name}", came, f"the example's, {wanted}")
