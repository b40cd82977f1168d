"""Comparisons of whole networks: inference, and a training step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alexkern import models
from alexkern.bench import ours, work
from alexkern.bench.checks import check_close, check_gradient_norms
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant
from alexkern.bench.layers import LAYERS, Target
from alexkern.bench.options import Options
from alexkern.bench.peers import PEERS, Peer
from alexkern.bench.peers.compile import Compile
from alexkern.bench.priority import LATE, importance
from alexkern.compare import plain
from alexkern.measure.timing import Call

SECONDS = {"cpu": {1: 6.0, 16: 15.0}, "cuda": {}}  # of measuring, by batch
LONG_SECONDS = {"cpu": 25.0, "cuda": 1.0}  # of larger batches and training steps; on a GPU of all
LEAST_S = {"cpu": 1.5, "cuda": 0.3}  # of building the network, its copies and its images


def seconds(target: Target, batch: int) -> float:
    device = target.device.type
    return SECONDS[device].get(batch, LONG_SECONDS[device])


def section(target: Target) -> str:
    return f"whole networks, {target.arithmetic}"


def inference(options: Options) -> Iterable[Comparison]:
    """The forward pass of every network at every batch, in every arithmetic."""
    for target, model, batch in product(options.targets, options.models, options.batches):
        main = options.is_main_batch(batch)
        runners = contenders(model, options, target, options.cost_at(batch, target))
        yield _inference(
            "inference", model, batch, runners, target, importance("inference", options, target, model, main)
        )


def compiled(options: Options) -> Iterable[Comparison]:
    """On a CPU, the forward pass by torch.compile, of the fused network and of the plain one."""
    if options.target.device.type == "cpu":
        runners = [ours.Compiled(), Compile("torch.compile")]
        yield _inference("compiled", options.models[0], options.batches[0], runners, options.target, LATE)


def _inference(kind: str, model: str, batch: int, runners: Sequence[Peer], target: Target, priority: int) -> Comparison:
    return Comparison(
        kind=Kind.NETWORK,
        section=section(target),
        what=f"{model} {kind}, batch {batch}",
        variants=tuple(variant(runner, target) for runner in runners),
        setup=partial(_inference_trial, model, batch, runners, target),
        seconds=seconds(target, batch),
        least_s=LEAST_S[target.device.type] + max(runner.prepare_s for runner in runners if runner.ours),
        images=batch,
        target=target,
        work=work.network(LAYERS[model], batch, target.dtype.itemsize, backward=False),
        labels={"pass": kind, "model": model, "batch": batch},
        priority=priority,
    )


def training(options: Options) -> Iterable[Comparison]:
    """Forward pass, cross entropy, backward pass and one step of SGD."""
    for target, model, batch in product(options.targets, options.models, options.training_batches):
        main = batch == options.training_batch
        cost = 0 if not main else 2 if target == options.target else 1
        runners = [one for one in contenders(model, options, target, cost) if one.trains]
        yield Comparison(
            kind=Kind.NETWORK,
            section=section(target),
            what=f"{model} training step, batch {batch}",
            variants=tuple(variant(runner, target, passes=2) for runner in runners),
            setup=partial(_training_trial, model, batch, runners, target),
            seconds=LONG_SECONDS[target.device.type],
            least_s=LEAST_S[target.device.type],
            images=batch,
            target=target,
            work=training_work(model, batch, target),
            labels={"pass": "training step", "model": model, "batch": batch},
            priority=importance("training", options, target, model, main),
        )


def training_work(model: str, batch: int, target: Target) -> work.Work:
    """Forward and backward pass, and the parameters' update."""
    with torch.device("meta"):
        sizes = [parameter.numel() for parameter in getattr(models, model)().parameters()]
    itemsize = target.dtype.itemsize
    return *work.network(LAYERS[model], batch, itemsize, backward=True), *work.sgd(sizes, itemsize)


def contenders(model: str, options: Options, target: Target, cost: int = 0) -> list[Peer]:
    """Ours, and the peers asked for that have this network and are no more costly to prepare."""
    peers = [
        peer
        for peer in PEERS
        if peer.name in options.peers
        and (peer.models is None or model in peer.models)
        and peer.devices in (None, target.device.type)
        and peer.cost <= cost
    ]
    return [*ours.contenders(target), *peers]


def variant(contender: Peer, target: Target, passes: int = 1) -> Variant:
    """passes: that are prepared, forward and backward."""
    return Variant(
        contender.name,
        ours=contender.ours,
        missing=contender.missing,
        restless=contender.restless and target.device.type == "cpu",
        prepare_s=passes * contender.prepare_s,
    )


def handed_over(name: str, runners: Sequence[Peer], network: nn.Module) -> tuple[Peer, nn.Module]:
    """The contender of that name and its own copy of the network."""
    contender = next(runner for runner in runners if runner.name == name)
    return contender, copy.deepcopy(network) if contender.ours else plain(network)


def build(model: str, target: Target) -> nn.Module:
    """The network with random weights, the same ones every time, in float32."""
    network = copy.deepcopy(_drawn(model, target.device))
    torch.manual_seed(0)
    return network


@cache
def _drawn(model: str, device: torch.device) -> nn.Module:
    """To be copied: on a CPU, drawing the weights takes ten times as long."""
    torch.manual_seed(0)
    with torch.device(device):
        return getattr(models, model)()


def _inference_trial(model: str, batch: int, runners: Sequence[Peer], target: Target) -> Trial:
    return inference_trial(build(model, target), target.randn(batch, 3, 224, 224), runners, target)


def inference_trial(network: nn.Module, images: Tensor, runners: Sequence[Peer], target: Target) -> Trial:
    network.eval().requires_grad_(False)
    with torch.inference_mode():
        expected = plain(network)(images.float())

    def prepare(name: str) -> Call:
        contender, own = handed_over(name, runners, network)
        return contender.prepare(own.to(target.dtype), images)

    def check(name: str, result: object) -> None:
        assert isinstance(result, Tensor)
        check_close([result.to(target.device)], [expected])

    return Trial(prepare, check)


def _training_trial(model: str, batch: int, runners: Sequence[Peer], target: Target) -> Trial:
    return training_trial(build(model, target), target.randn(batch, 3, 224, 224), runners, target)


def training_trial(network: nn.Module, images: Tensor, runners: Sequence[Peer], target: Target) -> Trial:
    network.train()
    labels = torch.randint(1000, (len(images),), device=target.device)
    expected = reference_gradients(network, images, labels)
    trained: dict[str, nn.Module] = {}

    def prepare(name: str) -> Call:
        contender, own = handed_over(name, runners, network)
        trained[name] = own.to(target.dtype)
        return training_step(trained[name], contender.prepare(trained[name], images), labels)

    def check(name: str, result: object) -> None:
        check_gradient_norms([parameter.grad for parameter in trained[name].parameters()], expected)

    return Trial(prepare, check)


def reference_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Of the cross entropy, by torch in float32."""
    reference = plain(network)
    F.cross_entropy(reference(images.float()), labels).backward()
    return [parameter.grad for parameter in reference.parameters() if parameter.grad is not None]


def training_step(network: nn.Module, forward: Call, labels: Tensor) -> Call:
    """One step of SGD with momentum on the network's own parameters, in one pass over them as in `alexkern train`."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad()
        output = forward()
        assert isinstance(output, Tensor)
        loss = F.cross_entropy(output.float(), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step
