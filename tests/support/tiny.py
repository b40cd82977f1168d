"""A network small enough to be trained in a test, images that it can learn, and the command on both.

Run as a script it is `alexkern` with the small network in place of `alexnet`. SIGNAL_AT=name:count:number makes it
send that signal to its process group at the count-th call of one of MOMENTS; SIGKILL to itself, as a power failure. Of
torchrun's processes the first sends none, and the others to themselves.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from alexkern import cli
from alexkern.models import MODELS, AlexNet, read_weights
from alexkern.nn import FusedSequential
from alexkern.training import checkpoint, log
from alexkern.training.step import Step
from support import zygote

CLASSES = ("blue", "green", "red")
OPTIONS = (
    "--size", "63", "--resize", "63", "--batch-size", "6", "--epochs", "2", "--workers", "0", "--hold-out", "0.2",
    "--learning-rate", "0.02", "--save-every", "3", "--device", "cpu",
)  # fmt: skip
# With everything that a checkpoint has to bring back.
RUN = (*OPTIONS, "--flip", "0.5", "--rotation", "10", "--optimizer", "adamw", "--learning-rate", "0.003")


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


class Narrow(AlexNet):
    """AlexNet with hidden layers of 8: its files are small enough to be written and cut at will."""

    @staticmethod
    def _build_classifier(num_classes: int, dropout: float) -> FusedSequential:
        with torch.device("meta"):
            layers = AlexNet._build_classifier(num_classes, dropout)
        layers[1], layers[4], layers[6] = nn.Linear(9216, 8), nn.Linear(8, 8), nn.Linear(8, num_classes)
        return layers


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


def one_line(result: tuple[int, list[str], list[str]], wanted: int = 2) -> str:
    """The only line on stderr of a command that ended with this status."""
    status, _, errors = result
    assert status == wanted and len(errors) == 1 and errors[0].startswith("alexkern train: "), result
    return errors[0]


def assert_same_run(ours: Path, wanted: Path) -> None:
    """The same bits: weights, optimiser, generators, and the log but for the times."""
    assert_same_weights(ours, wanted)
    left, right = (checkpoint.load(folder / "checkpoint.pt") for folder in (ours, wanted))
    for state in (left, right):
        state["progress"].pop("seconds")
    assert flat(left) == flat(right)
    rows = [
        [{**vars(row), "seconds": 0, "images_per_second": 0, "waiting": 0} for row in log.read(f / "log.csv")]
        for f in (ours, wanted)
    ]
    assert rows[0] == rows[1] and len(rows[0]) == 2


def assert_same_weights(ours: Path, wanted: Path) -> None:
    left, right = (read_weights(folder / "model.safetensors") for folder in (ours, wanted))
    assert list(left.state_dict) == list(right.state_dict) and left.classes == right.classes
    assert all(torch.equal(tensor, right.state_dict[name]) for name, tensor in left.state_dict.items())


def flat(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: flat(inner) for key, inner in value.items()}
    return [flat(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def group_threads() -> str:
    """The names of this process's threads that work for a group of torch.distributed."""
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    return " ".join(name for name in threads if "gloo" in name)


def command(
    *arguments: object, at: str = "", begun: bool = False, by: Sequence[str] = (), **popen: Any
) -> subprocess.Popen[str]:
    """The command in a process of its own; at: SIGNAL_AT, with spaces between several; begun: forked (zygote.py); by:
    options of Python's for what starts it."""
    tests = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"SIGNAL_AT": at, "PYTHONPATH": tests, "GLOO_SOCKET_IFNAME": "lo"}
    program = "import runpy; runpy.run_module('support.tiny', run_name='__main__')"
    start = zygote.command(program) if begun else [sys.executable, *by, "-m", "support.tiny"]
    line = [*start, *map(str, arguments)]
    return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **popen)


MOMENTS: dict[str, tuple[Any, str]] = {
    "step": (Step, "update"),
    "spoil": (Step, "new_gradients"),
    "write": (torch, "save"),
    "flush": (os, "fsync"),
    "rename": (os, "replace"),
    "link": (os, "link"),
}


def instead(
    owner: Any, name: str, count: int, act: Callable[..., Any], patch: Callable[[Any, str, Any], None] = setattr
) -> None:
    """The count-th call of a function is one of `act`, which is given the function and its arguments."""
    original, calls = getattr(owner, name), itertools.count(1)

    def counting(*arguments: Any, **options: Any) -> Any:
        if next(calls) != count:
            return original(*arguments, **options)
        return act(original, *arguments, **options)

    patch(owner, name, counting)


def _arm(moment: str) -> None:
    name, count, number = moment.split(":")

    def act(original: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if name == "spoil":
            loss, right = original(*arguments, **options)
            return loss * float("nan"), right
        if name == "write":  # half of it
            original(*arguments, **options)
            arguments[1].truncate(arguments[1].tell() // 2)
        if int(number) == signal.SIGKILL or "RANK" in os.environ:
            os.kill(os.getpid(), int(number))
        else:
            os.killpg(0, int(number))
        return original(*arguments, **options)

    instead(*MOMENTS[name], int(count), act)


if __name__ == "__main__":
    MODELS["alexnet"] = tiny  # type: ignore[assignment]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever the tests were started by
    for moment in os.environ.get("SIGNAL_AT", "").split() if os.environ.get("RANK") != "0" else ():
        _arm(moment)
    status = cli.main(sys.argv[1:])
    sys.exit(status or group_threads() or 0)
