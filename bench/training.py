"""Comparisons of `alexkern train`: its input pipeline on one core, and its step on our modules and on torch's own."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alexkern.augmentation import IMAGENET_MEAN, IMAGENET_STD
from alexkern.bench.checks import check_close, check_gradient_norms
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, threads
from alexkern.bench.layers import Target
from alexkern.bench.networks import build, plain, seconds
from alexkern.bench.options import Options
from alexkern.bench.ours import backends, served_by
from alexkern.data import Batch, collate, decode
from alexkern.functional import augment
from alexkern.measure.timing import Call
from alexkern.ops.registry import served
from alexkern.training import Settings
from alexkern.training.step import Step
from alexkern.training.world import World

PHOTOGRAPHS, SHAPE = 16, (375, 500)  # ImageNet's usual size
PIPELINE_S, STEP_S = 3.0, {"cpu": 10.0, "cuda": 1.0}  # at the least: checks and rounds
OURS, PIL_AND_NUMPY, TORCHS_MODULES = "alexkern", "PIL and numpy", "torch's modules"


def pipeline(options: Options) -> Iterable[Comparison]:
    """JPEG files to a batch for the network: decoded, the shorter side 256, the central 224 x 224, normalised."""
    if options.target.device.type == "cpu":
        yield Comparison(
            kind=Kind.NETWORK,
            section="input pipeline, one core",
            what=f"{PHOTOGRAPHS} JPEG files of {SHAPE[1]} x {SHAPE[0]}, decoded and augmented",
            variants=(Variant(OURS, ours=True), Variant(PIL_AND_NUMPY)),
            setup=_pipeline_trial,
            seconds=6.0,
            least_s=PIPELINE_S,
            images=PHOTOGRAPHS,
        )


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


def _pipeline_trial() -> Trial:
    folder = tempfile.TemporaryDirectory()  # it goes when the calls that hold it do
    paths = [Path(folder.name) / f"{number}.jpg" for number in range(PHOTOGRAPHS)]
    rng = np.random.default_rng(0)
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, size=(12, 16, 3), dtype=np.uint8))
        coarse.resize(SHAPE[::-1], Image.Resampling.BICUBIC).save(path, quality=90)

    def ours() -> Tensor:
        batch = collate([(decode(path, 384), 0, str(path), "") for path in paths])
        return augment(batch.images, 224, sizes=batch.sizes, crop="center", resize=256, flip=0.0)

    def theirs() -> Tensor:
        return torch.stack([_prepared(path) for path in paths])

    def prepare(name: str) -> Call:
        call: Callable[[], Tensor] = {OURS: ours, PIL_AND_NUMPY: theirs}[name]

        def on_one_core() -> Tensor:
            assert folder.name
            with threads(1):
                return call()

        return on_one_core

    return Trial(prepare, check=lambda name, result: check_close([_tensor(result)], [theirs()]))


def _prepared(path: Path) -> Tensor:
    """What a script without a library writes: PIL resizes uint8, numpy normalises."""
    with Image.open(path) as image:
        picture = image.convert("RGB").resize((256 * SHAPE[1] // SHAPE[0], 256), Image.Resampling.BILINEAR)
    left, top = round((picture.width - 224) / 2), 16
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    return torch.from_numpy((pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)).permute(2, 0, 1)


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


def _tensor(result: object) -> Tensor:
    assert isinstance(result, Tensor)
    return result
