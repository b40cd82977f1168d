"""A network small enough to be trained in a test, images that it can learn, and the command on both.

Run as a script it is `alexkern` with the small network in place of `alexnet`; KILL_AT=name:count makes it end itself by
SIGKILL, as a power failure would, at the count-th call of one of MOMENTS.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from alexkern import cli
from alexkern.models import MODELS, AlexNet
from alexkern.nn import FusedSequential
from alexkern.training.step import Step

CLASSES = ("blue", "green", "red")
OPTIONS = (
    "--size", "63", "--resize", "63", "--batch-size", "6", "--epochs", "2", "--workers", "0", "--hold-out", "0.2",
    "--learning-rate", "0.02", "--save-every", "3", "--device", "cpu",
)  # fmt: skip


class Tiny(AlexNet):
    """AlexNet's names and layers with few channels: some ten thousand parameters."""

    @staticmethod
    def _build_features() -> FusedSequential:
        return FusedSequential(
            nn.Conv2d(3, 8, 11, stride=4, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(True),
        )  # fmt: skip

    @staticmethod
    def _build_classifier(num_classes: int, dropout: float) -> FusedSequential:
        return FusedSequential(
            nn.Dropout(dropout), nn.Linear(8 * 36, 16), nn.ReLU(True), nn.Dropout(dropout), nn.Linear(16, 16),
            nn.ReLU(True), nn.Linear(16, num_classes),
        )  # fmt: skip


def tiny(*, num_classes: int = 1000, dropout: float = 0.5, weights: Any = None, progress: bool = True) -> Tiny:
    model = Tiny(num_classes, dropout)
    if weights is not None:
        model.load_state_dict(weights.state_dict)
        model.classes, model.preprocessing = weights.classes, weights.transforms
    return model


def write_images(folder: Path, per_class: int = 10, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """Noise that is brighter in one channel, as JPEG and PNG files of several sizes: FOLDER/CLASS/NUMBER."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(reversed(classes)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            height, width = rng.integers(64, 100, size=2)
            pixels = rng.integers(0, 120, size=(height, width, 3))
            pixels[..., channel % 3] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.{('png', 'jpg')[number % 2]}")
    return folder


def command(*arguments: object, kill_at: str = "", **popen: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    tests = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"KILL_AT": kill_at, "PYTHONPATH": tests}
    line = [sys.executable, "-m", "support.tiny", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen)


def _die(*arguments: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half_written(content: Any, file: Any) -> None:
    TORCH_SAVE(content, file)
    file.truncate(file.tell() // 2)
    _die()


TORCH_SAVE = torch.save
MOMENTS: dict[str, tuple[Any, str, Any]] = {
    "step": (Step, "update", _die),
    "write": (torch, "save", _half_written),
    "flush": (os, "fsync", _die),
    "rename": (os, "replace", _die),
    "link": (os, "link", _die),
}


def _arm(name: str, count: int) -> None:
    owner, attribute, deadly = MOMENTS[name]
    original, calls = getattr(owner, attribute), 0

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return (deadly if calls == count else original)(*arguments, **options)

    setattr(owner, attribute, counting)


if __name__ == "__main__":
    MODELS["alexnet"] = tiny  # type: ignore[assignment]
    if os.environ.get("KILL_AT"):
        moment, _, number = os.environ["KILL_AT"].partition(":")
        _arm(moment, int(number))
    sys.exit(cli.main(sys.argv[1:]))
