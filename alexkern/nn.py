"""Modules: FusedSequential, and torch.nn's MaxPool2d, Dropout and LocalResponseNorm on our operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_globals
from torch.overrides import has_torch_function_unary

from alexkern import dispatch, functional
from alexkern.ops import registry
from alexkern.ops.operator import Operator
from alexkern.plan import is_channels_last

__all__ = ["Dropout", "FusedSequential", "LocalResponseNorm", "MaxPool2d"]


class MaxPool2d(nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` through :func:`alexkern.functional.max_pool2d`; return_indices is not supported."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.return_indices:
            raise ValueError(
                "alexkern.nn.MaxPool2d: return_indices must be False: it keeps window offsets, not indices"
            )

    def forward(self, input: Tensor) -> Tensor:
        return functional.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` through :func:`alexkern.functional.dropout`; inplace is not supported."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__(p, inplace)
        if inplace:
            raise ValueError("alexkern.nn.Dropout: inplace must be False")

    def forward(self, input: Tensor) -> Tensor:
        return functional.dropout(input, self.p, self.training)


class LocalResponseNorm(nn.LocalResponseNorm):
    """:class:`torch.nn.LocalResponseNorm` through :func:`alexkern.functional.local_response_norm`."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class FusedSequential(nn.Sequential):
    """An :class:`torch.nn.Sequential` that runs its children in fused groups.

    It has the same children, the same state_dict keys and the same slices as the Sequential it stands for. On the way
    through, each run of ``Conv2d, ReLU[, MaxPool2d]`` or ``Linear, ReLU[, Dropout]`` becomes one operator of
    alexkern.functional, and a lone MaxPool2d, Dropout or LocalResponseNorm goes through ours too. Children join in only
    where nobody could tell the difference: exactly those types, zero padding, no return_indices, no forward of the
    instance's own, and no hook that would have to see what is in between. Anything else runs as it is.

    Images stay channels_last between fused convolutions, and come out in the format that torch would have given them.
    Under FX tracing, torch.jit.trace and torch.export the children run one by one, so node names stay and what is
    exported needs no alexkern.
    """

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "alexkern.nn.FusedSequential: torch.jit.script is not supported; use torch.compile or torch.export"
        )

    def forward(self, input: Any) -> Any:
        if not isinstance(input, Tensor) or _is_override(input) or _runs_plain(input):
            return super().forward(input)
        children = list(self._modules.values())
        restore = False  # whether the value is channels_last only because we made it so
        index = 0
        while index < len(children):
            found = match(children, index)
            if found is None:
                if restore:
                    input, restore = input.contiguous(), False
                input = children[index](input)
                index += 1
                continue
            module = found.modules[0]
            if isinstance(module, nn.Conv2d) and input.dim() == 4 and not is_channels_last(input):
                # torch answers in channels_last where the weight is, whatever the input's format
                restore = not is_channels_last(module.weight)
                input = input.contiguous(memory_format=torch.channels_last)
            input = found(input)
            index += len(found.modules)
        return input.contiguous() if restore else input


def _is_override(input: Tensor) -> bool:
    """A subclass with a __torch_function__ of its own. A mode, as torch.set_default_device sets one, is no reason."""
    return type(input) is not Tensor and type(input) is not nn.Parameter and has_torch_function_unary(input)


def _runs_plain(input: Tensor) -> bool:
    """Whether a tracer should see plain children: exporting, or compiling with nothing of ours to call."""
    if not torch.compiler.is_compiling():
        return torch.jit.is_tracing()
    return torch.compiler.is_exporting() or all(
        dispatch.traced_name(operator, input) == "torch" for operator in registry.OPERATORS
    )


class Match(NamedTuple):
    """The children of a Sequential that one operator stands for."""

    operator: Operator
    modules: tuple[Any, ...]

    def __call__(self, input: Tensor) -> Tensor:
        return self.operator.function(input, **self.operator.arguments(*self.modules))


def match(children: Sequence[nn.Module | None], index: int) -> Match | None:
    """The longest run from `index` on that one operator stands for; None where the child has to run as it is."""
    if _global_hooks():
        return None
    for layers, operator in registry.runs().get(type(children[index]), ()):
        run = tuple(children[index : index + len(layers)])
        if tuple(map(type, run)) == layers and all(map(is_bare, run)) and operator.fits(*run):
            return Match(operator, run)
    return None


def _global_hooks() -> bool:
    return bool(
        module_globals._global_forward_hooks
        or module_globals._global_forward_pre_hooks
        or module_globals._global_backward_hooks
        or module_globals._global_backward_pre_hooks
    )


def is_bare(module: nn.Module | None) -> bool:
    """No hook would be passed by, and calling the module means calling its class's forward."""
    return module is not None and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )


def passes_on(pool: nn.AdaptiveAvgPool2d, input: Tensor) -> bool:
    """Whether the pooling would hand on what it gets, every average being that of a single pixel, with nobody to see.

    torch computes those averages all the same, and their gradients. A tracer sees the module.
    """
    return (
        type(input) is Tensor
        and input.shape[-2:] == pool.output_size
        and type(pool) is nn.AdaptiveAvgPool2d
        and is_bare(pool)
        and not _global_hooks()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )
