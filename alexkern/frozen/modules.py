"""A snapshot's modules: the model's Sequentials, whose images stay channels_last from step to step, and its layers that
stand outside of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, pairwise, takewhile
from operator import attrgetter, itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from alexkern import dispatch
from alexkern.frozen import images
from alexkern.frozen.convolution import FrozenConvolution, Plan, symmetric_padding
from alexkern.frozen.linear import FrozenLinear, settle
from alexkern.frozen.step import ByOperator, PackedRun, Passing, Run, Step, folds, tensors_of
from alexkern.nn import FusedSequential, Match, Weighed, changed_layers, match, watcher, why_not_bare
from alexkern.ops.convolution import misfit_of
from alexkern.plan import is_channels_last

# The images of a large batch go through the convolutions and poolings so many at a time that an activation has at most
# these bytes: what one layer wrote is then in the cache for the next, and no allocation reaches the size (32 MiB) from
# which the C library maps fresh pages, which the kernel clears one by one.
CHUNK_BYTES = 12 * 2**20


class Frozen(Weighed, nn.Module):
    """A module that runs by packed weights. Made by :func:`freeze`.

    It and its children are the model's, and may be looked at, called, hooked, changed and loaded as ever. Steps stand
    for the layers where a plain tensor comes in, no gradient is wanted and nothing traces, casts or watches; elsewhere
    they run as in the model, fused. When one of them, a parameter, a buffer, a hook or a mode is not what it was when
    the steps were made, they are made anew. In a copy, unpickled or not, they are made at the first call.
    """

    _plan = Plan(None, None)

    def _layers(self) -> dict[str, Any]:
        """What steps are to be made of."""
        return self._modules

    def _run(self, steps: list[Any], input: Any, gains: list[int] | None = None) -> Any:
        """gains: of the steps, to be added to where somebody wants to know."""
        restore = False  # whether the value is channels_last only because we made it so
        head = self._head()
        for step in steps:
            if step.takes(input):
                if gains is not None:
                    gains.append(step.gains(input))
                if isinstance(step, FrozenConvolution) and step.stands_alone(input):
                    input, restore = step(input, False), False
                    continue
                if isinstance(step, FrozenConvolution) and input.dim() == 4 and not is_channels_last(input):
                    restore = not step.channels_last
                    if step.images is None:
                        input = input.contiguous(memory_format=torch.channels_last)
                elif restore and isinstance(step, FrozenLinear):
                    input, restore = input.contiguous(), False
                input = step(input)
            else:
                if restore:
                    input, restore = input.contiguous(), False
                input = step.one_by_one(self._prepared(input) if step.modules[0] is head else input)
        return input.contiguous() if restore else input

    def _head(self) -> nn.Module | None:
        """The model's first convolution, if it is here."""
        return self._modules.get(self._plan.head or "")

    def _prepared(self, input: Any) -> Any:
        """For the first convolution to get what a plain one takes."""
        head = self._head()
        if not isinstance(head, nn.Conv2d) or not isinstance(input, Tensor):
            return input
        return images.prepared(input, head.weight.dtype, self._plan.bytes_to)

    def _current(self) -> Packed:
        """The steps, made anew where the children are not what they were."""
        packed = _PACKED.get(self)
        if packed is None or not packed.is_current(list(self._modules.values()) or packed.children):
            self._gains = {}
            with torch.inference_mode(False), torch.no_grad():
                packed = _PACKED[self] = Packed(self._layers(), self._plan)
        return packed

    def train(self, mode: bool = True) -> Any:
        """Stays in eval mode."""
        return super().train(False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        with torch.inference_mode(False):
            settle(self._layers().values())


# What was packed for a module, which goes with it and is in none of its copies.
_PACKED: WeakKeyDictionary[nn.Module, Packed] = WeakKeyDictionary()


class FrozenSequential(Frozen, FusedSequential):
    """A FusedSequential that runs by packed weights, made of its children."""

    def forward(self, input: Any) -> Any:
        key = self._key(input)
        known = 1 if key is None else self._gains.get(key)
        if known == 0:
            return self._plain(input)
        if not _is_undisturbed(input):
            # Captured for a snapshot, whose packing joins chains of torch's calls, beyond one Sequential.
            if torch.compiler.is_compiling() and is_capturing():
                return self._plain(self._prepared(input))
            return self._fused(self._prepared(input))
        packed = self._current()
        steps, leading = packed.steps, packed.leading
        if leading and input.dim() == 4 and len(input) > 1 and input.device.type == "cpu":
            chunks = math.ceil(input.shape[0] * steps[0].image_bytes(input) / CHUNK_BYTES)
            if chunks > 1:
                input = torch.cat([self._run(steps[:leading], images) for images in input.chunk(chunks)])
                steps = steps[leading:]
        gains = [int(steps is not packed.steps)]
        output = self._run(steps, input, gains)
        if known is None:
            known = sum(gains)
            self._keep(key, known)
        if _thread.gains is not None:
            _thread.gains.append(known)
        return output

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(index, slice):
            part._plan = self._plan
        return part

    def extra_repr(self) -> str:
        names = iter(self._modules)
        runs = [([next(names) for _ in step.modules], step) for step in self._current().steps]
        packed = [(run, step.describe()) for run, step in runs if isinstance(step, PackedRun)]
        return "\n".join(f"({'-'.join([*run[:1], *run[1:][-1:]])}) {text}" for run, text in packed)


class FrozenLayer(Frozen):
    """A layer outside of Sequentials, by itself."""

    __prepare_scriptable__ = FusedSequential.__prepare_scriptable__

    def forward(self, input: Any) -> Any:
        key = self._key(input)
        known = 1 if key is None else self._gains.get(key)
        if known != 0 and _is_undisturbed(input) and (step := self.step()).takes(input):
            if known is None:
                self._keep(key, step.gains(input))
            return self._run([step], input)
        return super().forward(self._prepared(input))

    def step(self) -> Any:
        """What runs in its place. Where it has become another class since, as parametrizations make it, that is it."""
        return self._current().steps[0]

    def _head(self) -> nn.Module | None:
        return None if self._plan.head is None else self

    def _layers(self) -> dict[str, Any]:
        """torch's own layer, which is this one but for the class: all else they share."""
        layer: nn.Module = object.__new__(type(self).__bases__[-1])
        object.__setattr__(layer, "__dict__", vars(self))
        return {"": layer}

    def extra_repr(self) -> str:
        packed = _PACKED.get(self)  # of one in a captured graph nothing, mostly
        steps = [] if packed is None else [step for step in packed.steps if isinstance(step, PackedRun)]
        return ", ".join([super().extra_repr(), *(step.describe() for step in steps)])


class PackedConv2d(FrozenLayer, nn.Conv2d):
    """A Conv2d that runs by packed filters."""


class PackedLinear(FrozenLayer, nn.Linear):
    """A Linear whose weight lies in huge pages."""


FROZEN: dict[type, type[Frozen]] = {
    nn.Sequential: FrozenSequential,
    FusedSequential: FrozenSequential,
    nn.Conv2d: PackedConv2d,
    nn.Linear: PackedLinear,
}


class _Thread(threading.local):
    gains: list[int] | None = None  # of the FrozenSequentials in a captured call


_thread = _Thread()


@contextmanager
def capturing() -> Iterator[list[int]]:
    """For what torch.compile traces in this thread to be a snapshot's own graph (alexkern/frozen/captured.py)."""
    before, _thread.gains = _thread.gains, []
    try:
        yield _thread.gains
    finally:
        _thread.gains = before


def is_capturing() -> bool:
    """Whether a call that is being traced is traced for a snapshot. That one is, the caller finds: torch 2.11 looks
    constants up outside of its tracing."""
    return _thread.gains is not None


is_capturing._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_undisturbed(input: Any) -> bool:
    """Whether nothing traces, transforms, casts or watches a call with this tensor, and no gradient of it is wanted."""
    return (
        dispatch.is_direct(input)
        and not (torch.is_grad_enabled() and input.requires_grad)
        and watcher(input) is None
        and forward_ad._current_level < 0
    )


class Packed:
    """The steps that children of a Sequential were made into, and what has to be as it was for them to stand."""

    def __init__(self, modules: dict[str, Any], plan: Plan):
        self.children = list(modules.values())
        self.steps: list[Any] = []
        while (index := sum(len(step.modules) for step in self.steps)) < len(self.children):
            self.steps.append(_step(self.children[index:], [*modules][index], plan))
        self.leading = _by_image(self.steps)
        for step, behind in pairwise(filter(lambda step: type(step) is not Passing, self.steps)):
            if isinstance(step, FrozenConvolution):
                step.last = not behind.by_image
        there = [module for module in self.children if module is not None]
        self.owners = [owner for step in self.steps if isinstance(step, Run) for owner in step.owners]
        self.own = [module.__dict__ for module in there]  # which grow where a forward is set
        self.hooks = [hooks for module in there for hooks in (module._forward_pre_hooks, module._forward_hooks)]
        tensors = tensors_of(self.owners)
        self.ids, self.state = list(map(id, tensors)), self.state_of(tensors)
        self.held = [tensor.detach() for tensor in tensors]  # so that no other comes to lie at their addresses

    def is_current(self, children: list[Any]) -> bool:
        if children != self.children:
            return False
        tensors = tensors_of(self.owners)
        return list(map(id, tensors)) == self.ids and self.state_of(tensors) == self.state

    def state_of(self, tensors: list[Tensor]) -> list[Any]:
        parts = map(Tensor.data_ptr, tensors), map(_VERSION, tensors), map(_TRAINING, self.own), map(len, self.own)
        return [*chain(*parts, map(bool, self.hooks))]


_VERSION, _TRAINING = attrgetter("_version", "requires_grad"), itemgetter("training")


def _step(children: Sequence[Any], name: str, plan: Plan) -> Step:
    """The first of the children, with those that join it."""
    first, *rest = children
    kind = type(first)
    convolves = kind is nn.Conv2d and symmetric_padding(first) is not None and first.in_channels > 0
    norm = rest.pop(0) if rest and (convolves or kind is nn.Linear) and folds(rest[0], kind) else None
    run, found, why_plain = (first,), None, match([first, *rest], 0, changed_layers())
    if isinstance(why_plain, Match):
        run, found, why_plain = why_plain.modules, why_plain, ""
    reason = next(filter(None, map(_why_not_packable, run if norm is None else (*run, norm))), None)
    if reason is not None:
        return Step(first, why_plain=reason)
    if convolves:
        return FrozenConvolution(first, norm, found, name, plan)
    if kind is nn.Linear:
        return FrozenLinear(first, norm, found)
    if kind in (nn.Dropout, nn.AdaptiveAvgPool2d):
        return Passing(first, why_plain="hands on its input")
    why_plain = (misfit_of(first) or "padding") if kind is nn.Conv2d else why_plain
    return Step(first, why_plain=why_plain) if found is None else ByOperator(found)


def _why_not_packable(module: nn.Module | None) -> str | None:
    """Somebody sees whether it is called, it is not in eval mode, or its tensors do not say when they are changed."""
    if module is None or module.training:
        return "in training mode"
    tensors = tensors_of((module._parameters, module._buffers))
    if not all(type(tensor) in (Tensor, nn.Parameter) and not tensor.is_inference() for tensor in tensors):
        return "with tensors of a subclass or of inference mode"
    return why_not_bare(module, changed_layers())


def _by_image(steps: list[Any]) -> int:
    """How many steps, from a first convolution on, work image by image and end in a pooling, whose output is small."""
    leading = takewhile(attrgetter("by_image"), steps if isinstance(next(iter(steps), None), FrozenConvolution) else [])
    return max((index + 1 for index, step in enumerate(leading) if step.pools), default=0)
