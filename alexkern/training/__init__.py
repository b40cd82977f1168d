"""From batches to a trained network: settings, the step, evaluation, checkpoints, the log and its pictures."""

from alexkern.training.errors import Interrupted, TrainingError
from alexkern.training.presets import PRESETS
from alexkern.training.settings import Settings
from alexkern.training.trainer import Trainer

__all__ = ["PRESETS", "Interrupted", "Settings", "Trainer", "TrainingError"]
