"""A run, from its first step or from a checkpoint to its last picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError

from alexkern.console import first_line
from alexkern.data import BatchOrder, DamageTally, Loader, Samples
from alexkern.data.samples import other_classes
from alexkern.drawing import NotDrawn
from alexkern.models import MODELS, ImageClassification, save_weights
from alexkern.training import checkpoint, log, pictures
from alexkern.training.display import Display
from alexkern.training.errors import Interrupted, RunFailed, TrainingError, cause
from alexkern.training.evaluate import Score, evaluate
from alexkern.training.interrupt import StopRequest
from alexkern.training.schedule import Schedule
from alexkern.training.settings import Settings
from alexkern.training.step import Step
from alexkern.training.world import World, generator_state, restore_generators

LOOK_EVERY = 20  # steps between looks at what only the device knows, where looking stalls it
WEIGHTS, LOG, CURVES, FILTERS = "model.safetensors", "log.csv", "curves.svg", "filters.png"
CLASSES = "classes.txt"


@dataclass
class Progress:
    """Where a run is: epochs and batches of the epoch that are done, steps and images of all, seconds so far."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains one of the networks on `training`, and evaluates it on `validation` after every epoch.

    Files go to `folder`: checkpoint.pt and previous.pt, log.csv, and at the end model.safetensors, curves.svg and
    filters.png. Every process of a `world` has a Trainer; the leading one writes.
    """

    def __init__(
        self,
        settings: Settings,
        training: Samples,
        validation: Samples,
        folder: Path,
        world: World,
        display: Display,
        *,
        workers: int = 0,
        save_every: int = 1000,
        max_damaged: int = 100,
        graphed: bool = False,
    ) -> None:
        if settings.batch_size % world.size:
            wanted = f"wanted a multiple of the {world.size} processes"
            raise TrainingError(f"--batch-size: {wanted}, got {settings.batch_size}")
        if graphed and (world.device.type != "cuda" or world.size > 1 or settings.precision == "fp16"):
            raise TrainingError("--graph: wanted one process on a GPU, and --precision fp32 or bf16")
        self.settings, self.folder, self.world, self.display = settings, folder, world, display
        self.save_every, self.classes = save_every, training.classes
        torch.manual_seed(settings.seed)
        model = MODELS[settings.model](num_classes=len(training.classes), dropout=settings.dropout)
        model.classes = training.classes
        model.preprocessing = ImageClassification(settings.size, settings.resize, settings.mean, settings.std)
        self.model = model.to(device=world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # From here on processes draw differently: each drops other units.
        torch.manual_seed(settings.seed + 1 + world.rank)
        self.damage = DamageTally(max_damaged, display.warn)
        self.training = self._loader(training, workers, shuffle=True)
        self.validation = self._loader(validation, workers, shuffle=False)
        self.step = Step(self.model, settings, world, graphed)
        self.schedule = Schedule(settings, self.training.order.steps)
        self.progress = Progress()

    def _loader(self, samples: Samples, workers: int, shuffle: bool) -> Loader:
        settings, world = self.settings, self.world
        order = BatchOrder(
            len(samples), settings.batch_size, seed=settings.seed, shuffle=shuffle, rank=world.rank, world=world.size
        )
        return Loader(samples, order, bound=settings.decoded_size, workers=workers, device=world.device)

    # Checkpoints

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on. All processes have to ask for it together."""
        return {
            "settings": asdict(self.settings),
            "classes": list(self.classes),
            "images": self.training.order.count,
            "model": self.model.state_dict(),
            "optimizer": self.step.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "schedule": self.schedule.state(),
            "progress": asdict(self.progress),
            "sums": self.world.gather(self.step.sums.tolist()),
            "generators": self.world.gather(generator_state(self.world.device)),
        }

    def restore(self, content: dict[str, Any], source: Path) -> None:
        """Go on where a checkpoint was saved.

        Raises:
            TrainingError: it is another network's, of other classes or images, or of another number of processes.
        """
        if tuple(content["classes"]) != self.classes:
            how = other_classes(content["classes"], self.classes) or "another order"
            raise TrainingError(f"{source}: a checkpoint of other classes: {how}")
        if content["images"] != self.training.order.count:
            count = self.training.order.count
            raise TrainingError(f"{source}: a checkpoint of {content['images']} training images; here are {count}")
        if len(content["generators"]) != self.world.size:
            raise TrainingError(f"{source}: of {len(content['generators'])} processes, but here are {self.world.size}")
        try:
            self.model.load_state_dict(content["model"])
            self.step.optimizer.load_state_dict(content["optimizer"])
            self.step.scaler.load_state_dict(content["scaler"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise TrainingError(
                f"{source}: a checkpoint of another network than {self.settings.model} ({first_line(error)})"
            ) from None
        self.schedule.load(content["schedule"])
        self.progress = Progress(**content["progress"])
        self.step.sums.copy_(torch.tensor(content["sums"][self.world.rank], dtype=torch.float64))
        restore_generators(content["generators"][self.world.rank], self.world.device)

    def save(self) -> None:
        """Write a checkpoint, unless what would be written is spoilt. All processes have to ask for it together."""
        self.agree()
        state = self.state()
        for name, value in self.model.state_dict().items():
            if not bool(torch.isfinite(value).all()):
                self._fail(f"{name} is not finite after step {self.progress.step}", self.progress.step)
        self._lead(partial(checkpoint.save, self.folder, state))

    def agree(self, signal: int = 0, look: bool = True) -> int:
        """The signal that this process or another was sent, or 0; ends the run where a loss was not finite.

        All processes have to ask for it together. look: whether to read the losses of the steps so far, off the device.
        """
        signal, bad = self.world.most((signal, (self.step.bad_step() or 0) if look else 0))
        if bad:
            self._fail(f"the loss is not finite at step {bad}", bad)
        return signal

    def _fail(self, what: str, step: int) -> NoReturn:
        """End the run in all processes; what: said by the leading one."""
        path = self.folder / checkpoint.NAME
        kept = f"; {path} is from before" if path.exists() else ", before any checkpoint"
        text = f"{what}, with a learning rate of {self.schedule.rate(step - 1):.6g}; stopped{kept}"
        raise RunFailed(text) if self.world.leads else Interrupted("", RunFailed.status)

    def _lead(self, write: Callable[[], object]) -> None:
        """Write to the folder in the leading process; where that fails, the run ends in all of them."""
        failed: RunFailed | None = None
        if self.world.leads:
            try:
                write()
            except RunFailed as error:
                failed = error
            except OSError as error:
                place = error.filename2 or error.filename or self.folder
                failed = RunFailed(f"{place}: cannot be written ({checkpoint.reason(error)})")
        if self.world.most([failed is not None])[0]:
            raise failed or Interrupted("", RunFailed.status)

    # The run

    def fit(self) -> list[log.Row]:
        """Train to the end, and return the log's rows.

        In the main thread a signal that asks to stop is heeded after the batch in hand, in training and in evaluation.

        Raises:
            RunFailed: the loss is not finite, the folder cannot be written to, a decoding process is gone, or memory.
            DataError: too many images are damaged.
            Interrupted: Ctrl-C, SIGTERM or SIGHUP, after saving.
        """
        steps = self.settings.epochs * self.training.order.steps
        with self.explained(), StopRequest() as request, self.display.bar(steps, self.progress.step):
            return self._fit(request)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the machine does to a run within the block is a RunFailed that says so."""
        try:
            yield
        except RuntimeError as error:
            path = self.folder / checkpoint.NAME
            kept = f"{path} is the last checkpoint" if path.exists() else "there is no checkpoint yet"
            raise RunFailed(f"{cause(error)}; stopped after step {self.progress.step}, {kept}") from None

    def _fit(self, request: StopRequest) -> list[log.Row]:
        settings, progress, path = self.settings, self.progress, self.folder / LOG
        self._lead(partial(log.begin, path, progress.epoch + 1))
        while progress.epoch < settings.epochs:
            start, images = time.perf_counter() - progress.seconds, self.step.sums[2].item()
            begun = time.perf_counter()
            self._epoch(request, start)
            loss, right, count = self.world.sum(self.step.sums.tolist())
            rate = self.world.sum([self.step.sums[2].item() - images])[0] / (time.perf_counter() - begun)
            heed = partial(self._heed, request, False)
            score = evaluate(self.model, self.validation, settings, self.world, self.damage.add, heed)
            progress.seconds = time.perf_counter() - start
            row = self._row(loss, right, count, rate, score)
            self.schedule.see(1 - score.top1)
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self.step.sums.zero_()
            # The row first: killed in between, the resumed run does the epoch again and drops its row.
            self._lead(partial(log.add, path, row))
            if self.world.leads:
                self.display.epoch(row, settings.epochs)
            self.save()
        self._lead(self._finish)
        return log.read(path)

    def _heed(self, request: StopRequest, look: bool) -> None:
        """Between two batches: save and end the run, if a signal has asked any of its processes to; look: as above."""
        signal = self.agree(request.signal, look)
        if signal:
            self.save()
            raise Interrupted(f"stopped after step {self.progress.step}, saved; go on with --resume", 128 + signal)

    def _epoch(self, request: StopRequest, start: float) -> None:
        """The rest of the epoch that `progress` is in. start: when the run would have begun without a pause."""
        progress, order = self.progress, self.training.order
        self.model.train()
        order.begin(progress.epoch, progress.batch)
        begun, seen = time.perf_counter(), 0
        for batch in self.training:
            self.damage.add(batch.damaged)
            share = order.share(progress.batch)
            rate = self.schedule.rate(progress.step)
            self.step(batch, progress.step + 1, progress.images + self.world.rank * share, rate)
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            progress.images += share * self.world.size
            progress.seconds = time.perf_counter() - start
            seen += share * self.world.size
            look = progress.step % LOOK_EVERY == 0 or self.world.device.type == "cpu"
            if self.display.live and look:
                loss, _, count = self.step.sums.tolist()
                speed = seen / (time.perf_counter() - begun)
                self.display.step(progress.epoch + 1, progress.step, loss / max(1.0, count), speed)
            self._heed(request, look)
            if progress.step % self.save_every == 0 and progress.batch < order.steps:
                self.save()

    def _row(self, loss: float, right: float, count: float, rate: float, score: Score) -> log.Row:
        progress = self.progress
        return log.Row(
            epoch=progress.epoch + 1,
            step=progress.step,
            images=progress.images,
            learning_rate=self.schedule.rate(progress.step - 1),
            train_loss=loss / max(1.0, count),
            train_top1=right / max(1.0, count),
            val_loss=score.loss,
            val_top1=score.top1,
            val_top5=score.top5,
            seconds=round(progress.seconds, 3),
            images_per_second=round(rate, 2),
            waiting=round(self.training.waiting, 4),
            damaged=len(self.damage.seen),
        )

    def _finish(self) -> None:
        try:
            save_weights(self.model, self.folder / WEIGHTS)
            pictures.filters(self.model, self.folder / FILTERS)
            pictures.write_curves(log.read(self.folder / LOG), self.folder / CURVES)
        except NotDrawn as error:
            self.display.warn(f"{error}; later: alexkern train --curves {self.folder}")
        except SafetensorError as error:  # its form of an OSError
            raise RunFailed(f"{self.folder / WEIGHTS}: cannot be written ({first_line(error)})") from None
