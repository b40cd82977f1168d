"""The learning rate: a function of the step, and for "plateau" of the validation errors so far."""

from __future__ import annotations

import math
from dataclasses import dataclass

from alexkern.training.settings import Settings


@dataclass
class Schedule:
    """`best`, `waited` and `decays` are the state of "plateau": lowest error, epochs since then, decays so far."""

    settings: Settings
    steps_per_epoch: int
    best: float = math.inf
    waited: int = 0
    decays: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        settings = self.settings
        warmup = round(settings.warmup * self.steps_per_epoch)
        if step < warmup:
            return settings.learning_rate * (step + 1) / warmup
        return settings.learning_rate * self._factor(step, warmup)

    def _factor(self, step: int, warmup: int) -> float:
        settings = self.settings
        if settings.schedule == "step":
            return float(settings.decay ** (step // self.steps_per_epoch // settings.decay_every))
        if settings.schedule == "plateau":
            return float(settings.decay**self.decays)
        if settings.schedule == "cosine":
            total = settings.epochs * self.steps_per_epoch
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        return 1.0

    def see(self, error: float) -> None:
        """Take an epoch's validation error into account."""
        if error < self.best:
            self.best, self.waited = error, 0
            return
        self.waited += 1
        if self.waited >= self.settings.patience and self.decays < self.settings.max_decays:
            self.decays, self.waited = self.decays + 1, 0

    def state(self) -> dict[str, float]:
        return {"best": self.best, "waited": self.waited, "decays": self.decays}

    def load(self, state: dict[str, float]) -> None:
        self.best, self.waited, self.decays = state["best"], int(state["waited"]), int(state["decays"])
