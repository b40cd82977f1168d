"""Modules: FusedSequential, and torch.nn's MaxPool2d, Dropout and LocalResponseNorm on our operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from types import MethodType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as module_globals
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from alexkern import dispatch
from alexkern.ops import registry
from alexkern.ops.checks import FLOATING
from alexkern.ops.operator import Operator
from alexkern.plan import is_channels_last

__all__ = ["Dropout", "FusedSequential", "LocalResponseNorm", "MaxPool2d"]


MOST_SHAPES = 64  # of inputs that a module keeps in mind


class Alone(nn.Module):
    """A layer of torch's that is an operator by itself."""

    operator: ClassVar[Operator]

    def forward(self, input: Tensor) -> Tensor:
        return self.operator.function(input, **self.operator.arguments(self))


class MaxPool2d(Alone, nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` through :func:`alexkern.functional.max_pool2d`; return_indices is not supported."""

    operator = registry.alone(nn.MaxPool2d)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.return_indices:
            raise ValueError("alexkern.nn.MaxPool2d: return_indices must be False: it keeps offsets in windows")


class Dropout(Alone, nn.Dropout):
    """:class:`torch.nn.Dropout` through :func:`alexkern.functional.dropout`; inplace is not supported."""

    operator = registry.alone(nn.Dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__(p, inplace)
        if inplace:
            raise ValueError("alexkern.nn.Dropout: inplace must be False")


class LocalResponseNorm(Alone, nn.LocalResponseNorm):
    """:class:`torch.nn.LocalResponseNorm` through alexkern.functional."""

    operator = registry.alone(nn.LocalResponseNorm)


class Weighed:
    """What keeps in mind, by what comes in, whether it gains anything over torch's own calls of its layers.

    Those are as right as what it does itself, whatever has happened to it since.
    """

    _gains: dict[Any, int] = {}  # 0: nothing

    def _key(self, *inputs: Any) -> tuple[Any, ...] | None:
        """What decides whether it gains; None where it does."""
        if torch.compiler.is_dynamo_compiling():
            return None
        for input in inputs:
            if type(input) is not Tensor or not input.is_cpu:
                return None
        of = [(input.shape, input.dtype) for input in inputs]
        return *of, torch.is_grad_enabled(), dispatch.current_backend()

    def _keep(self, key: Any, gains: int) -> None:
        # A new dictionary: another thread may be looking through the old one, and a copy of the module has it too.
        self._gains = dict([*self._gains.items()][1 - MOST_SHAPES :]) | {key: gains}


class FusedSequential(Weighed, nn.Sequential):
    """An :class:`torch.nn.Sequential` that runs its children in fused groups.

    It has the same children, the same state_dict keys and the same slices as the Sequential it stands for. On the way
    through, each run of ``Conv2d, ReLU[, MaxPool2d]``, ``Conv2d, MaxPool2d, ReLU`` (the same but for a zero's sign) or
    ``Linear, ReLU[, Dropout]`` becomes one operator of alexkern.functional, and a lone MaxPool2d, Dropout or
    LocalResponseNorm goes through ours too. Children join in only where nobody could tell the difference: Python would
    call torch's own forward on exactly those types, with zero padding, no return_indices and no hook that would have to
    see what is in between, on plain floating tensors and with parameters that are. Anything else runs as it is;
    :func:`alexkern.fusion_report` says what, and why.

    Images are channels_last between fused convolutions where that gains, and come out in the format that torch gives.
    Under FX tracing, torch.jit.trace and torch.export, and while a mode of torch function or torch dispatch watches,
    the children run one by one: node names stay, what is exported needs no alexkern, and who counts sees torch's calls.
    So do those whose operator, with images of a shape, saves less than its call costs, as a first call with it finds.
    """

    def __prepare_scriptable__(self) -> nn.Module:
        name = type(self).__name__
        raise RuntimeError(f"alexkern.{name}: torch.jit.script is not supported; use torch.compile or torch.export")

    def forward(self, input: Any) -> Any:
        key = self._key(input)
        known = None if key is None else self._gains.get(key)
        return self._plain(input) if known == 0 else self._fused(input, key, known)

    def _plain(self, input: Any) -> Any:
        for module in self._modules.values():
            input = module(input)
        return input

    def _fused(self, input: Any, key: Any = None, known: int | None = None) -> Any:
        """known: what is under the key, or None. Bit i of it: whether the run gains that begins with child i."""
        gains, runs = 0, -1 if known is None else known
        fuses = watcher(input) is None
        changed = changed_layers()
        children = tuple(self._modules.values())
        restore = False  # whether the value is channels_last only because we made it so
        index = 0
        while index < len(children):
            found = match(children, index, changed) if fuses and runs >> index & 1 and _is_plain(input) else None
            if type(found) is not Match:
                if restore:
                    input, restore = input.contiguous(), False
                input = children[index](input)
                index += 1
                continue
            module = found.modules[0]
            if isinstance(module, nn.Conv2d) and input.dim() == 4:
                converts = torch.compiler.is_compiling() or gains_by_channels_last(found, input.device, input.shape)
                if converts and not is_channels_last(input):
                    # torch answers in channels_last where the weight is, whatever the input's format
                    restore = not is_channels_last(module.weight)
                    input = to_channels_last(input)
                elif restore and not converts:
                    input, restore = input.contiguous(), False
            output = found(input)
            if key is not None and known is None and found.gains(input):
                gains |= 1 << index
            input = output
            index += len(found.modules)
        if key is not None and known is None and fuses:
            self._keep(key, gains)
        return input.contiguous() if restore else input


def gains_by_channels_last(found: Match, device: torch.device, images: Sequence[int]) -> bool:
    """Whether a convolution of images of a shape is faster in that format, its filters brought there included.

    On a CPU only the pooling behind it is, and has to make up for the filters: measured at 2 to 224 pixels, batches of
    1 to 32, forward and backward. FusedSequential does not ask where something traces: sizes may be symbols there.
    """
    weight = found.modules[0].weight
    if device.type != "cpu" or is_channels_last(weight):
        return True
    N, _, H, W = images
    return len(found.modules) == 3 and N > 1 and 2 * N * H * W >= math.prod(weight.shape[1:])


def to_channels_last(input: Tensor) -> Tensor:
    if torch._C._are_functorch_transforms_active():  # vmap knows strides, but no memory formats
        return input.movedim(1, -1).contiguous().movedim(-1, 1)
    return input.contiguous(memory_format=torch.channels_last)


def folded(
    weight: Tensor, bias: Tensor | None, mean: Tensor, variance: Tensor, scale: Tensor | None, shift: Tensor | None,
    eps: float, wide: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weight and bias of a layer with a normalisation by running statistics behind it, computed in `wide` at least and
    rounded once."""
    wide = torch.promote_types(weight.dtype, wide)
    factor = (variance.to(wide) + eps).rsqrt()
    factor = factor if scale is None else factor * scale
    offset = ((0 if bias is None else bias) - mean.to(wide)) * factor
    offset = offset if shift is None else offset + shift
    filters = weight * factor.view(-1, *(1 for _ in weight.shape[1:]))
    return filters.to(weight.dtype), offset.to(weight.dtype)


def _is_plain(value: Any) -> bool:
    """A dense floating tensor, and no subclass with a behaviour of its own."""
    return (
        (type(value) is Tensor or type(value) is nn.Parameter)
        and value.dtype in FLOATING
        and value.layout is torch.strided
        and not value.is_nested
    )


def watcher(input: Any) -> str | None:
    """Who has to see the children run one by one, from here on."""
    if (
        module_globals._global_forward_hooks
        or module_globals._global_forward_pre_hooks
        or module_globals._global_backward_hooks
        or module_globals._global_backward_pre_hooks
    ):
        return "a hook is on all modules"
    # torch.device as a context, and torch.set_default_device, are a mode too, but see nothing.
    if torch._C._len_torch_function_stack() > 0 and any(
        type(mode) is not DeviceContext for mode in _get_current_function_mode_stack()
    ):
        return "a TorchFunctionMode is watching"
    if torch.compiler.is_compiling():
        if dispatch.is_exporting():
            return "torch.export is tracing"
        trains, operators = torch.is_grad_enabled(), registry.OPERATORS.values()
        if not _is_plain(input) or all(operator.left_to_compiler(input, trains) for operator in operators):
            return "torch.compile is tracing, and would call nothing of ours"
        return None
    if torch._C._len_torch_dispatch_stack() > 0:
        return "a TorchDispatchMode is watching"
    return "torch.jit.trace is tracing" if torch._C._is_tracing() else None


class Match(NamedTuple):
    """The layers that one operator stands for."""

    operator: Operator
    modules: tuple[Any, ...]

    def __call__(self, input: Tensor) -> Tensor:
        return self.operator.function(input, **self.operator.arguments(*self.modules))

    def gains(self, input: Tensor) -> bool:
        """Whether the operator saves more time than its call costs over torch's own.

        Only "auto" weighs that, and on a CPU alone: what was asked for by name is called.
        """
        name = self.operator.name
        if dispatch.current_backend() != "auto" or dispatch.resolve_name(name, input) != "cpu":
            return True
        return self.operator.gains(dispatch.implementation("cpu", name), input.shape, *self.modules)


def match(children: Sequence[nn.Module | None], index: int, changed: Container[type]) -> Match | str:
    """The longest run from `index` on that one operator stands for, or why the child has to run as it is."""
    return longest(children[index:], type, lambda module: why_not_bare(module, changed))


def longest(layers: Sequence[Any], kind: Callable[[Any], type], why_not: Callable[[Any], str | None]) -> Match | str:
    """The longest run from the first on: of modules, or of what alexkern.compiler reads as such in a captured graph.

    kind: the class of torch's that a layer is. why_not: why it has to run as it is, if it has.
    """
    reason = "not torch's own class"
    for kinds, operator, behind in registry.runs().get(kind(layers[0]), ()):
        run: tuple[Any, ...] = tuple(layers[: len(kinds)])
        if tuple(map(kind, run)) != kinds:
            reason = behind
            continue
        for layer in run:
            found = why_not(layer)
            if found is not None:
                break
        else:
            found = operator.misfit(*run)
        if found is None:
            return Match(operator, run)
        reason = found
    return reason


def is_bare(module: nn.Module) -> bool:
    """No hook would be passed by, and calling the module means calling its class's forward, on plain parameters."""
    return why_not_bare(module, changed_layers()) is None


def why_not_bare(module: nn.Module, changed: Container[type]) -> str | None:
    """Why somebody could tell whether the module is called, or torch's function with its parameters; None if nobody."""
    kind, own = type(module), module.__dict__
    if own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]:
        return f"{kind.__name__} has a hook"
    for name in SHADOWING:
        # The class's own method, as it is left behind by who had replaced it, is nothing new.
        if name in own and not (type(own[name]) is MethodType and own[name] == getattr(kind, name).__get__(module)):
            return f"{kind.__name__} has a {name} of its own"
    if kind in changed:
        return f"{kind.__name__}'s forward, or what it calls, is not torch's own any more"
    for name, value in own["_parameters"].items():
        if not (value is None or (type(value) is nn.Parameter and value.layout is torch.strided) or _is_plain(value)):
            return f"{kind.__name__}'s {name} is no plain floating tensor"
    return None


# What a module can have of its own that a call of it then takes, instead of its class's methods and its parameters.
SHADOWING = ("forward", "_conv_forward", "_call_impl", "_compiled_call_impl", "weight", "bias")


def _functions(kind: type) -> list[tuple[Any, str]]:
    """Where the functions are looked up that a call of a layer goes through: its methods, and those that they call."""
    methods = [name for name in ("__call__", "forward", "_conv_forward") if hasattr(kind, name)]
    words = {word for name in methods[1:] for word in getattr(kind, name).__code__.co_names}
    functions = [(F, word) for word in words if callable(getattr(F, word, None)) and not word.startswith("_")]
    return [(nn.Module, "_call_impl"), *((kind, name) for name in methods), *functions]


_LAYERS = {kind for operator in registry.OPERATORS.values() for layers in operator.layers for kind in layers}
_KINDS = {kind: _functions(kind) for kind in (*_LAYERS, nn.AdaptiveAvgPool2d, nn.BatchNorm1d, nn.BatchNorm2d)}
_PLACES = sorted({place for places in _KINDS.values() for place in places}, key=str)
_OWNERS, _NAMES = zip(*_PLACES, strict=True)
_IMPORTED = list(map(getattr, _OWNERS, _NAMES))  # torch's, as alexkern was imported


def changed_layers() -> tuple[type, ...]:
    """The layers that somebody has since given another forward, or something else to call in it."""
    now = list(map(getattr, _OWNERS, _NAMES))
    if now == _IMPORTED:
        return ()
    changed = {place for place, one, other in zip(_PLACES, now, _IMPORTED, strict=True) if one is not other}
    return tuple(kind for kind, places in _KINDS.items() if not changed.isdisjoint(places))


changed_layers._dynamo_marked_constant = True  # type: ignore[attr-defined]


def passes_on(pool: nn.Module, input: Tensor) -> bool:
    """Whether the pooling would hand on what it gets, every average being that of a single pixel, with nobody to see.

    torch computes those averages all the same, and their gradients. A tracer sees the module.
    """
    return (
        type(input) is Tensor
        and type(pool) is nn.AdaptiveAvgPool2d
        and input.shape[-2:] == pool.output_size
        and watcher(input) is None
        and not torch.compiler.is_compiling()
        and is_bare(pool)
    )
