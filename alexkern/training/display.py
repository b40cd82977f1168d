"""What a run says while it runs: a bar on a terminal, a line an epoch, and a line for what went wrong."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from alexkern.console import Console, printable
from alexkern.training.log import Row


class Display:
    """Lines on stdout, warnings on stderr, the bar on stderr where that is a terminal.

    A quiet one has warnings alone, a silent one says nothing.
    """

    def __init__(self, quiet: bool = False, silent: bool = False) -> None:
        self.quiet, self.silent = quiet or silent, silent
        errors = Console(stderr=True, quiet=self.quiet)
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}, {task.fields[rate]:.0f} images/s"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=errors, transient=True, disable=self.quiet or not errors.is_terminal)
        self.task: TaskID | None = None

    @contextmanager
    def bar(self, steps: int, done: int) -> Iterator[None]:
        """Within the block the bar is on the screen; it counts the steps of the whole run."""
        self.task = self.progress.add_task("train", total=steps, completed=done, epoch=0, loss=math.nan, rate=0.0)
        try:
            with self.progress:
                yield
        finally:
            self.task = None

    @property
    def live(self) -> bool:
        """Whether there is a bar to feed."""
        return not self.progress.disable

    def step(self, epoch: int, done: int, loss: float, rate: float) -> None:
        """Move the bar: epoch from 1, steps done, the epoch's mean loss, images a second."""
        if self.task is not None:
            self.progress.update(self.task, completed=done, epoch=epoch, loss=loss, rate=rate)

    def epoch(self, row: Row, epochs: int) -> None:
        """An epoch's line."""
        text = f"epoch {row.epoch}/{epochs}: loss {row.train_loss:.4f}, top-1 {row.train_top1:.1%}"
        if math.isfinite(row.val_loss):
            text += f"; validation loss {row.val_loss:.4f}, top-1 {row.val_top1:.1%}, top-5 {row.val_top5:.1%}"
        self.say(f"{text}; {row.images_per_second:.0f} images/s, {row.waiting:.0%} of the time waiting for images")

    def say(self, text: str) -> None:
        self._print(text, errors=False)

    def warn(self, text: str) -> None:
        self._print(f"alexkern train: {text}", errors=True)

    def _print(self, text: str, errors: bool) -> None:
        if self.silent if errors else self.quiet:
            return
        started = self.progress.live.is_started
        if started:  # the bar and the line may share a terminal
            self.progress.stop()
        # Not before: a started bar has its own streams in their place.
        print(printable(text), file=sys.stderr if errors else sys.stdout, flush=True)
        if started:
            self.progress.start()
