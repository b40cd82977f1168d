"""fuse(model): the whole of making an existing network fast."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from alexkern.nn import FusedSequential

M = TypeVar("M", bound=nn.Module)


def fuse(model: M) -> M:
    """Turn every module whose type is exactly nn.Sequential into a :class:`FusedSequential`, in place.

    Only the class is assigned: children, hooks, parameters, aliases, state_dict keys and slices stay what they are, and
    a subclass of Sequential is left alone, since its forward may be its own.

    Args:
        model: any module: an AlexNet, a VGG, a Sequential.

    Returns:
        The same model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"alexkern.fuse: model must be a torch.nn.Module, got {type(model).__name__}")
    for module in model.modules():
        if type(module) is nn.Sequential:
            module.__class__ = FusedSequential
    return model
