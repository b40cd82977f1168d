"""What one run of the comparison covers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from alexkern.arithmetic import ARITHMETIC
from alexkern.bench.layers import LAYERS, Target
from alexkern.bench.peers import PEERS
from alexkern.measure.timing import CLOCKS
from alexkern.ranges import BATCH, RANGES

ON_GPU = tuple(reversed(ARITHMETIC))
BATCHES = {"cpu": (1, 16, 64), "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)}
TRAINING_BATCHES = {"cpu": (32,), "cuda": (32, 64, 128, 256, 512, 1024)}
MAIN_BATCHES = {"cpu": (1, 16, 64), "cuda": (1, 16, 128, 1024)}  # where peers that take long to prepare join in
HEADLINE_BATCH = {"cpu": 16, "cuda": 128}
MAIN_TRAINING_BATCH = {"cpu": 32, "cuda": 128}
SECONDS, RECORD_SECONDS = 200.0, 540.0


@dataclass(frozen=True)
class Options:
    targets: tuple[Target, ...]  # one device, several arithmetics: the first is the most important
    models: tuple[str, ...]
    peers: tuple[str, ...]
    batches: tuple[int, ...]  # of inference
    training_batches: tuple[int, ...]
    operator_batch: int
    compile_operators: bool
    clock: str
    seconds: float  # the whole run, compiling included
    record: Path | None = None  # the folder to write to

    @property
    def target(self) -> Target:
        return self.targets[0]

    @property
    def training_batch(self) -> int:
        """The one that stands for the others."""
        usual = MAIN_TRAINING_BATCH[self.target.device.type]
        return usual if usual in self.training_batches else self.training_batches[0]

    def is_main_batch(self, batch: int) -> bool:
        """Whether an inference batch is one that every peer runs; of those asked for, the first always is."""
        return batch in MAIN_BATCHES[self.target.device.type] or batch == self.batches[0]

    def cost_at(self, batch: int, target: Target) -> int:
        """How costly a peer may be to run inference at this batch: Peer.cost. Beside the first arithmetic, less."""
        headline = HEADLINE_BATCH[self.target.device.type]
        is_headline = batch == (headline if headline in self.batches else self.batches[0])
        if target != self.target:
            return 1 if is_headline else 0
        return 2 if is_headline else 1 if self.is_main_batch(batch) else 0

    @classmethod
    def read(cls, config: Any) -> Options:
        """From pytest's command line; defaults that depend on the device are filled in here."""

        def option(name: str) -> Any:
            # Where pytest meets this folder on its way through others, the options were never declared.
            return config.getoption(name, OPTIONS[name].get("default"))

        device = option("--device") or ("cuda" if torch.cuda.is_available() else "cpu")
        arithmetics = option("--dtypes") or (ON_GPU if device == "cuda" else cpu_arithmetics())
        if device == "cpu" and "tf32" in arithmetics:
            raise pytest.UsageError("--dtypes: tf32 is a GPU's arithmetic")
        record = option("--record")
        return cls(
            targets=tuple(Target(torch.device(device), ARITHMETIC[name][0], name == "tf32") for name in arithmetics),
            models=option("--models"),
            peers=option("--peers") or tuple(peer.name for peer in PEERS if device in peer.defaults),
            batches=option("--batches") or BATCHES[device],
            training_batches=option("--training-batches") or TRAINING_BATCHES[device],
            operator_batch=option("--operator-batch") or (128 if device == "cuda" else 8),
            compile_operators=option("--compile-operators"),
            clock=option("--clock"),
            seconds=option("--seconds") or (RECORD_SECONDS if record else SECONDS),
            record=Path(record) if record else None,
        )


def cpu_arithmetics() -> tuple[str, ...]:
    """float32, and bfloat16 where the CPU multiplies matrices of it."""
    fast = any(
        getattr(torch.cpu, name, lambda: False)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return ("float32", "bfloat16") if fast else ("float32",)


def comma_separated(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """The parser of an option's value: some of the known names, or `all`."""
    known = tuple(known)

    def parse(text: str) -> tuple[str, ...]:
        names = known if text == "all" else tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def sizes(text: str) -> tuple[int, ...]:
    """An option's value: batches."""
    return tuple(int(BATCH(part)) for part in text.split(","))


ALL_PEERS = [peer.name for peer in PEERS]
OPTIONS: dict[str, dict[str, Any]] = {
    "--models": {"type": comma_separated(LAYERS), "default": ("alexnet",), "help": f"of {', '.join(LAYERS)}; or all"},
    "--peers": {"type": comma_separated(ALL_PEERS), "help": f"of {', '.join(ALL_PEERS)}; or all"},
    "--batches": {"type": sizes, "help": "of inference (default: 1,16,64; on a GPU 1,2,4,...,2048)"},
    "--training-batches": {"type": sizes, "help": "of the training step (default: 32; on a GPU 32,64,...,1024)"},
    "--operator-batch": {
        "type": RANGES["operator-batch"],
        "help": "batch of single operators (default: 8, on a GPU 128)",
    },
    "--compile-operators": {"action": "store_true", "default": False, "help": "add torch.compile of their expressions"},
    "--device": {"choices": ("cpu", "cuda"), "help": "default: cuda where there is one"},
    "--dtypes": {
        "type": comma_separated(ARITHMETIC),
        "help": f"of {', '.join(ARITHMETIC)}; or all; default: on a GPU all, on a CPU those that it is fast in",
    },
    "--clock": {
        "choices": tuple(CLOCKS),
        "default": "wall",
        "help": "cpu: CPU time on one thread, for a machine that others keep busy (default: wall)",
    },
    "--seconds": {
        "type": RANGES["seconds"],
        "help": "wall-clock the whole run aims at: no row is left out, the most important have more peers and rounds "
        f"(default: {SECONDS:g}, with --record {RECORD_SECONDS:g})",
    },
    "--record": {
        "metavar": "DIR",
        "help": "write the record and its table to this folder as they come, and its pictures at the end",
    },
}


def add_options(group: Any) -> None:
    """Declares the options on pytest's option group; several names are separated by commas."""
    for name, settings in OPTIONS.items():
        group.addoption(name, **settings)
