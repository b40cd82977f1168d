"""What every numeric option may be: the one table that the parser, --help, the settings and docs/training.md read."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Numbers of a kind, both ends included. Called with an option's text it is the parser's type."""

    kind: type[int] | type[float]
    least: float
    most: float

    def __str__(self) -> str:
        return f"{'a whole number' if self.kind is int else 'a number'} from {self.least:,.15g} to {self.most:,.15g}"

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, self.kind)) and self.least <= value <= self.most  # which nan never is

    def __call__(self, text: str) -> float:
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if value not in self:
            raise argparse.ArgumentTypeError(f"wanted {self}, got {text!r}")
        return value


COUNT, SHARE, FACTOR, EPOCHS = Range(int, 1, 10**9), Range(float, 0, 1), Range(float, 0, 100), Range(int, 1, 2**20)
BATCH, PIXELS = Range(int, 1, 65_536), Range(int, 63, 4096)  # below 63 no network has an output
RANGES = {
    "batch-size": BATCH,
    "batches": BATCH,
    "brightness": FACTOR,
    "clip": Range(float, 0, 1e9),
    "contrast": FACTOR,
    "count": Range(int, 1, 100),
    "decay": SHARE,
    "decay-every": EPOCHS,
    "dropout": SHARE,
    "epochs": EPOCHS,
    "flip": SHARE,
    "hold-out": Range(float, 0.001, 0.9),
    "hue": Range(float, 0, 0.5),
    "jobs": Range(int, 1, 1024),
    "label-smoothing": SHARE,
    "learning-rate": Range(float, 0, 1000),
    "lighting": FACTOR,
    "limit": Range(int, 1, 86_400),
    "max-damaged": Range(int, 0, 10**9),
    "max-decays": Range(int, 0, 1000),
    "mean": Range(float, -1000, 1000),
    "min-scale": Range(float, 1e-4, 1),
    "momentum": SHARE,
    "most": Range(int, 1, 1000),
    "operator-batch": BATCH,
    "patience": EPOCHS,
    "resize": PIXELS,
    "rotation": Range(float, 0, 360),
    "saturation": FACTOR,
    "save-every": COUNT,
    "seconds": Range(float, 0, 1e6),
    "seed": Range(int, 0, 2**31),
    "size": PIXELS,
    "std": Range(float, 1e-6, 1000),
    "thumbnail": Range(int, 1, 1024),  # augment's --size
    "top": COUNT,
    "training-batches": BATCH,
    "warmup": Range(float, 0, 2**20),
    "weight-decay": Range(float, 0, 1000),
    "workers": Range(int, 0, 1024),
}
