"""Everything that decides what a run computes. A checkpoint carries it, and a resumed run keeps to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from alexkern.augmentation import IMAGENET_MEAN, IMAGENET_STD, Triple
from alexkern.models import MODELS
from alexkern.ranges import RANGES
from alexkern.training.errors import TrainingError

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("constant", "step", "cosine", "plateau")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TRAINING_CROPS = ("random_resized", "random", "center")


def _setting(default: Any, help: str, *, choices: Collection[str] = ()) -> Any:
    """A field, with what the command's --help says of it, and what it may be where alexkern/ranges.py does not say."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """A run. Learning rates are those of a batch of `batch_size` images; epochs are passes over the training images."""

    model: str = _setting("alexnet", "the network", choices=MODELS)
    epochs: int = _setting(90, "passes over the training images")
    batch_size: int = _setting(128, "images a step, over all processes")
    optimizer: str = _setting("sgd", "AdamW's betas are 0.9 and 0.999", choices=OPTIMIZERS)
    learning_rate: float = _setting(0.01, "at its highest")
    momentum: float = _setting(0.9, "of SGD")
    weight_decay: float = _setting(5e-4, "of all parameters")
    schedule: str = _setting("cosine", "how the learning rate falls", choices=SCHEDULES)
    warmup: float = _setting(0.0, "epochs in which the learning rate rises from 0")
    decay_every: int = _setting(30, "epochs between decays, of step")
    decay: float = _setting(0.1, "what step and plateau multiply the learning rate by")
    patience: int = _setting(5, "epochs without a better validation error until plateau decays")
    max_decays: int = _setting(3, "decays of plateau")
    label_smoothing: float = _setting(0.0, "share of a label that goes to all classes")
    clip: float = _setting(0.0, "largest norm of all gradients; 0 for any")
    precision: str = _setting("fp32", "of products; weights stay fp32", choices=PRECISIONS)
    dropout: float = _setting(0.5, "probability of dropping a unit")
    size: int = _setting(224, "pixels that the network sees, high and wide")
    resize: int = _setting(256, "pixels of the shorter side before the crop, of evaluation and of random")
    crop: str = _setting("random_resized", "in training", choices=TRAINING_CROPS)
    min_scale: float = _setting(0.08, "least share of the area, of random_resized")
    flip: float = _setting(0.5, "probability of a horizontal flip")
    rotation: float = _setting(0.0, "degrees to both sides")
    brightness: float = _setting(0.0, "b for factors from 1 - b to 1 + b")
    contrast: float = _setting(0.0, "likewise")
    saturation: float = _setting(0.0, "likewise")
    hue: float = _setting(0.0, "shares of a circle to both sides")
    lighting: float = _setting(0.0, "standard deviation of PCA lighting")
    mean: Triple = _setting(IMAGENET_MEAN, "of each channel of RGB in [0, 1]")
    std: Triple = _setting(IMAGENET_STD, "likewise")
    ten_crops: bool = _setting(False, "evaluate with the mean over the paper's ten crops")
    hold_out: float = _setting(0.1, "share of the images for validation where there are no others")
    seed: int = _setting(0, "of weights, order, dropout and augmentation")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, choices = getattr(self, setting.name), setting.metadata["choices"]
            if choices and value not in choices:
                raise TrainingError(f"{flag(setting.name)}: wanted one of {', '.join(choices)}, got {value!r}")
            limits = RANGES.get(flag(setting.name)[2:])
            for number in value if isinstance(value, tuple) else (value,):
                if limits is not None and number not in limits:
                    raise TrainingError(f"{flag(setting.name)}: wanted {limits}, got {number!r}")
        if self.resize < self.size:
            raise TrainingError(f"--resize: wanted at least --size, {self.size}, got {self.resize}")

    @property
    def augmentation(self) -> dict[str, Any]:
        """The arguments of `alexkern.functional.augment` in training."""
        names = ("crop", "flip", "rotation", "brightness", "contrast", "saturation", "hue", "lighting")
        chosen = {name: getattr(self, name) for name in names}
        return chosen | {"scale": (self.min_scale, 1.0)} | self.preparation

    @property
    def preparation(self) -> dict[str, Any]:
        """The arguments that training and evaluation share."""
        return {"size": self.size, "resize": self.resize, "mean": self.mean, "std": self.std}

    @property
    def decoded_size(self) -> int:
        """Images are kept with a shorter side of at most so many pixels: most of ImageNet's are not shrunk at all."""
        return self.resize * 3 // 2


def flag(name: str) -> str:
    """The command's option for a setting."""
    return "--" + name.replace("_", "-")


def from_dict(values: dict[str, Any]) -> Settings:
    """The settings that a checkpoint carries."""
    known = {field.name for field in fields(Settings)}
    typed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
    }
    return Settings(**typed)
