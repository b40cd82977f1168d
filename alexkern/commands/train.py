"""`alexkern train`: from a folder of images to a trained network, on one device or many."""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from alexkern.commands import CommandError, add_number
from alexkern.console import first_line
from alexkern.data import DataError, find_sets
from alexkern.drawing import NotDrawn
from alexkern.models import Weights, read_weights
from alexkern.ranges import RANGES
from alexkern.training import PRESETS, Settings, Trainer, TrainingError, checkpoint, log, pictures
from alexkern.training.display import Display
from alexkern.training.errors import Interrupted
from alexkern.training.initial import begin_with
from alexkern.training.lock import RunLock
from alexkern.training.rehearsal import rehearse
from alexkern.training.settings import flag, from_dict
from alexkern.training.trainer import CLASSES, CURVES, LOG, WEIGHTS
from alexkern.training.world import World, join

HELP = "train a network on a folder of images"
DESCRIPTION = (
    "Train one of the networks on DATA/CLASS/IMAGE, DATA/train and DATA/val, or a list file with 'IMAGE CLASS' lines. "
    "With torchrun, on as many devices as there are processes."
)
CHANGEABLE = ("epochs",)  # settings that a resumed run may have otherwise than its checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where data and results are, and an option for every setting: what is not given is the preset's or the default."""
    parser.add_argument("data", metavar="DATA", help="a folder of class folders, or of train and val, or a list file")
    parser.add_argument("--val", metavar="V", help="validation images; default: DATA/val, else a share of DATA")
    parser.add_argument(
        "--out", type=Path, default=Path("run"), metavar="RUN", help="folder for results (default: run)"
    )
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="F", help="go on from RUN's checkpoint, or from the checkpoint F"
    )
    parser.add_argument(
        "--init", metavar="W", help="begin with a file's weights, but for its last layer if of other classes"
    )
    parser.add_argument("--dry-run", action="store_true", help="one batch through everything: shapes, memory, no files")
    parser.add_argument("--curves", action="store_true", help="only draw the curves of the run's folder that DATA is")
    parser.add_argument("--preset", choices=list(PRESETS), help="a paper's settings; options change them")
    parser.add_argument("--device", help="a torch device; default: cuda where there is a GPU, else cpu")
    cores = max(1, min(8, (os.cpu_count() or 1) - 1))
    add_number(parser, "--workers", cores, "decoding processes")
    add_number(parser, "--save-every", 1000, "steps")
    add_number(parser, "--max-damaged", 100, "images to leave out")
    parser.add_argument("--quiet", action="store_true", help="no bar and no lines but warnings and errors")
    parser.add_argument("--graph", action="store_true", help="capture the step in a CUDA graph")
    for field in fields(Settings):
        default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        told: dict[str, Any] = {"default": argparse.SUPPRESS}
        if flag(field.name)[2:] in RANGES:
            told |= {"nargs": 3, "metavar": ("R", "G", "B")} if field.type == "Triple" else {}
            add_number(parser, flag(field.name), default, field.metadata["help"], **told)
            continue
        if field.type == "bool":
            told["action"] = argparse.BooleanOptionalAction
        else:
            told["choices"] = tuple(field.metadata["choices"])
        parser.add_argument(flag(field.name), **told, help=f"{field.metadata['help']} (default: {default})")


def run(args: argparse.Namespace) -> int:
    """Train; 0 at the end, 1 where it cannot go on, 2 for bad input, 128 and the signal where one has ended it."""
    try:
        if args.curves:
            return _curves(Path(args.data))
        world = join(args.device)
        try:
            return _train(args, world)
        except Interrupted as stopped:
            return stopped.status
        finally:
            world.leave()
    except TrainingError as error:
        raise CommandError(str(error), error.status) from None
    except (DataError, NotDrawn) as error:
        raise CommandError(str(error)) from None
    except BrokenPipeError:
        raise  # stdout's: that is no file's
    except OSError as error:
        raise CommandError(f"{error.filename or args.out}: {error.strerror or first_line(error)}") from None


def _train(args: argparse.Namespace, world: World) -> int:
    with ExitStack() as held:
        new = not args.out.is_dir()
        if not new and not args.dry_run:
            _hold(args.out, world, held)
        given = _given(args)
        source, content = None, None
        if args.resume is not None:
            if args.init is not None:
                raise TrainingError("--init: a resumed run has its weights; wanted --init or --resume")
            source = Path(args.resume) if args.resume else checkpoint.newest(args.out)
            content = checkpoint.load(source)
            settings = _resumed(from_dict(content["settings"]), given, source)
        elif not args.dry_run and any((args.out / name).exists() for name in (checkpoint.NAME, checkpoint.PREVIOUS)):
            raise TrainingError(
                f"--out {args.out}: has a checkpoint; go on from it with --resume, or name another folder"
            )
        else:
            settings = from_dict(given)
        display = Display(quiet=args.quiet, silent=not world.leads)
        classes = tuple(content["classes"]) if content else None
        training, validation, notes = find_sets(Path(args.data), args.val, settings.hold_out, settings.seed, classes)
        for note in notes:
            display.warn(note)
        if new and not args.dry_run:
            _hold(args.out, world, held)
        trainer = Trainer(
            settings, training, validation, args.out, world, display, workers=args.workers,
            save_every=args.save_every, max_damaged=args.max_damaged, graphed=args.graph,
        )  # fmt: skip
        if content is not None and source is not None:
            trainer.restore(content, source)
            display.say(f"{source}: going on after step {trainer.progress.step}")
        display.say(
            f"{settings.model}: {len(training)} images of {len(training.classes)} classes, {len(validation)} for "
            f"validation; {world.size} x {world.device}, {torch.get_num_threads()} threads"
        )
        if args.init is not None:
            fresh = begin_with(trainer.model, _weights(args.init, settings.model))
            layers = f"{', '.join(fresh)} is new, the other layers are" if fresh else "all layers are"
            display.say(f"{args.init}: {layers} the file's")
        if args.dry_run:
            for line in (*rehearse(trainer), "nothing is written"):
                display.say(line)
            return 0
        if world.leads:
            names = "".join("?".join(name.splitlines()) + "\n" for name in training.classes)
            (args.out / CLASSES).write_text(names, encoding="utf-8", errors="surrogateescape")
        try:
            trainer.fit()
        except Interrupted as stopped:
            display.warn(str(stopped))
            raise
        display.say(f"{args.out / WEIGHTS} written: alexkern classify IMAGE --weights {args.out / WEIGHTS}")
        return 0


def _hold(folder: Path, world: World, held: ExitStack) -> None:
    """Make the folder, and keep other runs out of it; what the leading process cannot do ends all of them."""
    reason = None
    if world.leads:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(RunLock(folder))
        except TrainingError as error:
            reason = error
        except OSError as error:
            reason = TrainingError(f"--out {folder}: cannot be written to ({checkpoint.reason(error)})")
    if world.most([reason is not None])[0]:
        raise reason or Interrupted("", TrainingError.status)


def _weights(source: str, model: str) -> Weights:
    try:
        return read_weights(source, model=model)
    except (OSError, ValueError) as error:
        raise TrainingError(f"--init: {first_line(error)}") from None


def _curves(folder: Path) -> int:
    rows = log.read(folder / LOG)
    if not rows:
        raise CommandError(f"--curves {folder}: wanted a run's folder, and there is no epoch in {folder / LOG}")
    pictures.write_curves(rows, folder / CURVES)
    print(folder / CURVES)
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of preset and command line."""
    names = {field.name for field in fields(Settings)}
    typed = {name: value for name, value in vars(args).items() if name in names}
    return (PRESETS[args.preset] if args.preset else {}) | typed


def _resumed(saved: Settings, given: dict[str, Any], source: Path) -> Settings:
    for name, value in given.items():
        before = getattr(saved, name)
        value = tuple(value) if isinstance(value, list) else value
        if value != before and name not in CHANGEABLE:
            what = "another network: " if name == "model" else ""
            raise TrainingError(f"{source}: a checkpoint of {what}{flag(name)} {before}, but {value} is asked for")
    return replace(saved, **{name: given[name] for name in CHANGEABLE if name in given})
