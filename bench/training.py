"""Comparisons of `alexkern train`: its step on our modules and on torch's own."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from alexkern.bench.checks import check_gradient_norms
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant
from alexkern.bench.layers import Target
from alexkern.bench.networks import build, plain, seconds
from alexkern.bench.options import Options
from alexkern.bench.ours import backends, served_by
from alexkern.data import Batch
from alexkern.measure.timing import Call
from alexkern.ops.registry import served
from alexkern.training import Settings
from alexkern.training.step import Step
from alexkern.training.world import World

STEP_S = {"cpu": 10.0, "cuda": 1.0}  # at the least: checks and rounds
OURS, TORCHS_MODULES = "alexkern", "torch's modules"


def trainer_step(options: Options) -> Iterable[Comparison]:
    """The trainer's step, augmentation and optimiser included, in the first arithmetic."""
    target, batch = options.target, options.training_batch
    named = [f"{OURS} {backend}" for backend in backends(target, served())]
    for model in options.models:
        yield Comparison(
            kind=Kind.NETWORK,
            section="the trainer",
            what=f"{model} step, batch {batch}",
            variants=(*(Variant(name, ours=True) for name in (OURS, *named)), Variant(TORCHS_MODULES)),
            setup=partial(_step_trial, model, batch, target),
            seconds=seconds(target, batch),
            least_s=STEP_S[target.device.type],
            images=batch,
            target=target,
            graphs=False,  # the step reads host values: its learning rate, its images' number
        )


def _step_trial(model: str, batch: int, target: Target) -> Trial:
    network = build(model, target)
    precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[target.dtype]
    settings = Settings(model=model, batch_size=batch, precision=precision, learning_rate=1e-4)
    world = World(0, 1, target.device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 256, 341, 3), generator=generator, dtype=torch.uint8)
    sizes, labels = torch.tensor([[256, 341]] * batch), torch.randint(1000, (batch,), generator=generator)
    inputs = Batch(images, sizes, labels, []).to(target.device)
    expected = Step(plain(network).to(target.device), settings, world)
    expected(inputs, 1, 0, 0.0)
    norms = _gradients(expected)
    steps: dict[str, Step] = {}

    def prepare(name: str) -> Call:
        own = plain(network) if name == TORCHS_MODULES else copy.deepcopy(network)
        placed = own.to(device=target.device, memory_format=torch.channels_last)
        steps[name] = Step(placed, settings, world)
        step = partial(steps[name], inputs, 1, 0, 1e-4)
        backend = "" if name == TORCHS_MODULES else name.removeprefix(OURS).strip()
        return served_by(backend, step) if backend else step

    return Trial(prepare, check=lambda name, result: check_gradient_norms(_gradients(steps[name]), norms))


def _gradients(step: Step) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in step.model.parameters() if parameter.grad is not None]
