"""What a training step needs of memory: at its peak, and what its forward pass keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from alexkern.bench.comparison import Comparison, Kind, Trial
from alexkern.bench.layers import Target
from alexkern.bench.networks import LEAST_S, build, contenders, handed_over, training_step, variant
from alexkern.bench.options import Options
from alexkern.bench.peers import Peer
from alexkern.bench.peers.eager import EAGER
from alexkern.bench.priority import importance
from alexkern.measure.memory import peak_bytes
from alexkern.measure.timing import Call

PEAK_S = {"cpu": 4.0, "cuda": 1.0}  # of one row at the least: steps that warm up, and those that are traced


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes autograd saves within a `with` block: every storage once and whole, `excluded` ones never."""

    def __init__(self, excluded: Iterable[Tensor] = ()) -> None:
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in excluded}
        self._storages: dict[int, int] = {}
        super().__init__(self._pack, lambda tensor: tensor)

    @property
    def total(self) -> int:
        return sum(self._storages.values())

    def __enter__(self) -> SavedBytes:
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> Tensor:
        # The graph keeps the tensor, so no later storage takes its address while this one counts.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._excluded:
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor


def peak_memory(options: Options) -> Iterable[Comparison]:
    """Of a training step, over parameters, momentum and images, which every contender holds alike."""
    for target, model, batch in product(options.targets, options.models, options.training_batches):
        main = batch == options.training_batch
        runners = [one for one in contenders(model, options, target) if one.trains]
        yield Comparison(
            kind=Kind.COUNT,
            section=f"peak memory of a training step, {target.arithmetic}",
            what=f"{model}, batch {batch}",
            variants=tuple(variant(runner, target) for runner in runners),
            setup=partial(_peak_trial, model, batch, runners, target),
            seconds=0.0,
            least_s=PEAK_S[target.device.type],
            target=target,
            labels={"pass": "peak memory", "model": model, "batch": batch},
            priority=importance("memory", options, target, model, main),
        )


def _peak_trial(model: str, batch: int, runners: Sequence[Peer], target: Target) -> Trial:
    network = build(model, target).train().to(target.dtype)
    images = target.randn(batch, 3, 224, 224)
    labels = torch.randint(1000, (batch,), device=target.device)

    def prepare(name: str) -> Call:
        contender, own = handed_over(name, runners, network)
        step = training_step(own, contender.prepare(own, images), labels)
        step()  # makes the momentum, and what a library keeps from its first call on

        def count() -> int:
            own.zero_grad()  # a step's gradients are its own, and not what was there before it
            return peak_bytes(step, target.device)

        return count

    return Trial(prepare, _is_positive)


def saved_for_backward(options: Options) -> Iterable[Comparison]:
    """The bytes that a training step's forward pass keeps for the backward pass, parameters aside."""
    for model in options.models:
        every = contenders(model, options, options.target)
        runners = [
            *(one for one in every if one.ours and one.trains),
            *EAGER,
        ]  # autograd's hooks do not see what compiled code saves
        yield Comparison(
            kind=Kind.COUNT,
            section=f"saved for backward, {options.target.arithmetic}",
            what=f"{model} training step, batch {options.training_batch}",
            variants=tuple(variant(runner, options.target) for runner in runners),
            setup=partial(_saved_trial, model, options.training_batch, runners, options.target),
            seconds=0.0,
            least_s=LEAST_S[options.target.device.type],
            target=options.target,
            labels={"pass": "saved", "model": model, "batch": options.training_batch},
            priority=importance("memory", options, options.target, model),
        )


def _saved_trial(model: str, batch: int, runners: Sequence[Peer], target: Target) -> Trial:
    network = build(model, target).train().to(target.dtype)
    images = target.randn(batch, 3, 224, 224)

    def prepare(name: str) -> Call:
        contender, own = handed_over(name, runners, network)
        forward = contender.prepare(own, images)

        def count() -> int:
            with SavedBytes(excluded=own.parameters()) as saved:
                output = forward()
            assert isinstance(output, Tensor) and output.requires_grad
            return saved.total

        return count

    return Trial(prepare, _is_positive)


def _is_positive(name: str, result: object) -> None:
    assert isinstance(result, int) and result > 0
