"""freeze(model): an inference snapshot with its weights packed for the device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alexkern.errors import argument_error
from alexkern.frozen import captured, images
from alexkern.frozen.convolution import Plan
from alexkern.frozen.linear import settle
from alexkern.frozen.modules import FROZEN, Frozen, FrozenSequential

M = TypeVar("M", bound=nn.Module)


def freeze(
    model: M,
    example: Tensor | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> M:
    """An inference snapshot of a model: the same modules, run by weights packed for the device.

    Every nn.Sequential and FusedSequential in a copy of the model becomes a FrozenSequential, with the same children,
    in which ``Conv2d[, BatchNorm2d][, ReLU[, MaxPool2d]]`` and ``Linear[, BatchNorm1d][, ReLU]`` run at once. Every
    other nn.Conv2d and nn.Linear, wherever the model's own code calls it, becomes a subclass and runs alone, or, with
    an example, in the runs of the graph that torch.compile captures of it (docs/any-network.md). On a CPU, filters of
    float32 and bfloat16 are reordered into the blocks that oneDNN's kernels read, and 3x3 and 5x5 ones of float32 also
    for a convolution in fewer products (docs/snapshots.md); elsewhere they are laid out channels_last and run by
    alexkern.functional. The numbers stay those of the model's dtype. Images are channels_last from the first step to
    the last. The sign of a zero behind a max-pooling is not kept: it is applied before the ReLU.

    The first convolution takes images as they come: float32 ones for a model in float16 or bfloat16, which it rounds,
    and, with `mean` and `std`, uint8 ones, which it normalises. If its stride is 4 and its channels are up to four, and
    a ReLU follows, its filters are packed for space to depth too: the CUDA C++ kernels then read images of any layout,
    cast and normalised on the way (docs/cuda-convolution.md), and it takes those of ``augment(space_to_depth=True)``.

    The snapshot is of this moment: later changes of the model, its weights included, are not seen. Changes of its own
    are: its parameters, none of which asks for a gradient, can be loaded, cast and edited, its children hooked and
    replaced, and it packs again. Where something traces, casts, watches or wants a gradient, it runs as a fused model
    (and takes no images in depth). Dropout stays off whatever train() says. It can be pickled and deep-copied; its repr
    says what was packed.

    Args:
        model: any module, in any mode. It is not changed.
        example: a batch as the model will get it; weights are then laid out for its sizes now, not at the first call,
            and a module whose own forward calls its layers is captured.
        mean, std: of each channel, in units of 0 to 1: a byte x becomes (x / 255 - mean) / std, and the convolution's
            padding is 0 behind that. The model has to hand its images to its first nn.Conv2d as they are.

    Returns:
        The snapshot, an instance of the model's own class (FrozenSequential for a Sequential), in eval mode.

    Raises:
        TypeError: model is no module.
        ArgumentError: mean and std are not both a finite number for each channel, or no convolution takes them.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"alexkern.freeze: model must be a torch.nn.Module, got {type(model).__name__}")
    with torch.inference_mode(False):
        snapshot = copied(model).requires_grad_(False)
        settle(snapshot.modules())
    first = next((module for module in snapshot.modules() if isinstance(module, nn.Conv2d)), None)
    bytes_to = None if first is None else images.normalisation(mean, std, first.in_channels)
    if example is not None and first is not None:
        example = images.prepared(example, first.weight.dtype, bytes_to)
    modules: list[Any] = [*snapshot.modules()]
    for module in modules:
        module.training = False  # train() may be the model's own, and want other arguments
    kinds = {module: FROZEN.get(type(module), type(module)) for module in reversed(modules)}  # the inner ones first
    inside = {child for module, kind in kinds.items() if kind is FrozenSequential for child in module.children()}
    heads = 0
    for module, kind in kinds.items():
        if kind is FrozenSequential or (kind in FROZEN.values() and module not in inside):
            children = module.named_children() if kind is FrozenSequential else [("", module)]
            head = next((name for name, child in children if child is first), None)
            heads += head is not None
            module.__class__, module._plan = kind, Plan(head, bytes_to)
    whole: list[Any] = [module for module in modules if isinstance(module, captured.Captured)]  # of a snapshot
    whole = whole if example is None else [*captured.outermost(snapshot)]
    for module in whole:
        module.__class__ = captured.captured(type(module))
    later = {child for module in whole for child in module.modules()}  # by the runs that the graph has
    for module in modules:
        if isinstance(module, Frozen) and module not in later:
            module._current()
    if not heads and (mean is not None or std is not None):
        want = "None where the model has no nn.Conv2d that takes its images"
        raise argument_error("freeze", "std" if mean is None else "mean", repr(std if mean is None else mean), want)
    if example is not None:
        for mode in (torch.no_grad, torch.inference_mode)[not whole :]:  # each has a graph of its own
            with mode():
                snapshot(example)
        alone = [module for module in whole if not captured.has_packed(module)]
        for module in alone:
            captured.release(module)
        if alone:
            with torch.inference_mode():
                snapshot(example)
    return snapshot


def copied(model: M) -> M:
    """A deep copy, also of a model that deepcopy refuses.

    A pruned or weight-normed layer keeps its weight as a result of other parameters.
    """
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed)
