"""Comparisons of whole networks: inference, and a training step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern import models
from alexkern.bench.checks import check_close, check_gradient_norms
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant
from alexkern.bench.layers import Target
from alexkern.bench.memory import SavedBytes
from alexkern.bench.options import Options
from alexkern.bench.ours import CONTENDERS
from alexkern.bench.peers import PEERS, Peer
from alexkern.bench.peers.eager import Eager, EagerChannelsLast
from alexkern.bench.timing import Call

SECONDS = {1: 6.0, 16: 15.0}  # of measuring, by batch; larger ones and training steps:
LONG_SECONDS = 25.0


def plain(model: nn.Module) -> nn.Module:
    """A copy of the network with torch's own Sequential in place of ours: what a peer is given."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if type(module) is alexkern.nn.FusedSequential:
            module.__class__ = nn.Sequential
    return twin


def inference(options: Options) -> Iterable[Comparison]:
    """The forward pass of every network at every batch."""
    for model in options.models:
        contenders = _contenders(model, options)
        for batch in options.batches:
            yield Comparison(
                kind=Kind.NETWORK,
                section="whole networks",
                what=f"{model} inference, batch {batch}",
                variants=tuple(_variant(contender) for contender in contenders),
                setup=partial(_inference_trial, model, batch, contenders, options.target),
                seconds=SECONDS.get(batch, LONG_SECONDS),
                images=batch,
            )


def training(options: Options) -> Iterable[Comparison]:
    """Forward pass, cross entropy, backward pass and one step of SGD."""
    for model in options.models:
        contenders = [contender for contender in _contenders(model, options) if contender.trains]
        yield Comparison(
            kind=Kind.NETWORK,
            section="whole networks",
            what=f"{model} training step, batch {options.training_batch}",
            variants=tuple(_variant(contender) for contender in contenders),
            setup=partial(_training_trial, model, options.training_batch, contenders, options.target),
            seconds=LONG_SECONDS,
            images=options.training_batch,
        )


def _contenders(model: str, options: Options) -> list[Peer]:
    peers = [peer for peer in PEERS if peer.name in options.peers and (peer.models is None or model in peer.models)]
    return [*CONTENDERS, *peers]


def _variant(contender: Peer) -> Variant:
    return Variant(contender.name, ours=contender in CONTENDERS, missing=contender.missing, restless=contender.restless)


def _handed_over(name: str, contenders: Sequence[Peer], network: nn.Module) -> tuple[Peer, nn.Module]:
    """The contender of that name and its own copy of the network."""
    contender = next(contender for contender in contenders if contender.name == name)
    return contender, copy.deepcopy(network) if contender in CONTENDERS else plain(network)


def build(model: str, target: Target) -> nn.Module:
    """The network with random weights, the same ones every time, in float32."""
    torch.manual_seed(0)
    with torch.device(target.device):
        return getattr(models, model)()


def _inference_trial(model: str, batch: int, contenders: Sequence[Peer], target: Target) -> Trial:
    network = build(model, target).eval().requires_grad_(False)
    images = target.randn(batch, 3, 224, 224)
    with torch.inference_mode():
        expected = plain(network)(images.float())

    def prepare(name: str) -> Call:
        contender, own = _handed_over(name, contenders, network)
        return contender.prepare(own.to(target.dtype), images)

    def check(name: str, result: object) -> None:
        assert isinstance(result, Tensor)
        check_close([result.to(target.device)], [expected])

    return Trial(prepare, check)


def _training_trial(model: str, batch: int, contenders: Sequence[Peer], target: Target) -> Trial:
    network = build(model, target).train()
    images = target.randn(batch, 3, 224, 224)
    labels = torch.randint(1000, (batch,), device=target.device)
    reference = plain(network)
    F.cross_entropy(reference(images.float()), labels).backward()
    expected = [parameter.grad for parameter in reference.parameters() if parameter.grad is not None]
    trained: dict[str, nn.Module] = {}

    def prepare(name: str) -> Call:
        contender, own = _handed_over(name, contenders, network)
        trained[name] = own.to(target.dtype)
        forward = contender.prepare(trained[name], images)
        optimizer = torch.optim.SGD(trained[name].parameters(), lr=1e-3, momentum=0.9)

        def step() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(forward().float(), labels)
            loss.backward()
            optimizer.step()
            return loss

        return step

    def check(name: str, result: object) -> None:
        check_gradient_norms([parameter.grad for parameter in trained[name].parameters()], expected)

    return Trial(prepare, check)


def saved_for_backward(options: Options) -> Iterable[Comparison]:
    """The bytes that a training step's forward pass keeps for the backward pass, parameters aside."""
    for model in options.models:
        contenders = [*(contender for contender in CONTENDERS if contender.trains), Eager(), EagerChannelsLast()]
        yield Comparison(
            kind=Kind.COUNT,
            section="saved for backward",
            what=f"{model} training step, batch {options.training_batch}",
            variants=tuple(_variant(contender) for contender in contenders),
            setup=partial(_memory_trial, model, options.training_batch, contenders, options.target),
            seconds=0.0,
        )


def _memory_trial(model: str, batch: int, contenders: Sequence[Peer], target: Target) -> Trial:
    network = build(model, target).train().to(target.dtype)
    images = target.randn(batch, 3, 224, 224)

    def prepare(name: str) -> Call:
        contender, own = _handed_over(name, contenders, network)
        forward = contender.prepare(own, images)

        def count() -> int:
            with SavedBytes(excluded=own.parameters()) as saved:
                output = forward()
            assert output.requires_grad
            return saved.total

        return count

    return Trial(prepare, check=lambda name, result: None)
