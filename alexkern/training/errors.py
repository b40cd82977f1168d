"""The errors of a training run."""

from __future__ import annotations


class TrainingError(Exception):
    """A run cannot start or go on. The message is one line for the user."""


class Interrupted(Exception):
    """The run was asked to stop, and has saved where it is. `status` is what a shell gives for the signal."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
