"""What one run of the comparison covers."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from alexkern.bench.layers import LAYERS, Target
from alexkern.bench.peers import PEERS
from alexkern.bench.timing import CLOCKS

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    target: Target
    models: tuple[str, ...]
    peers: tuple[str, ...]
    batches: tuple[int, ...]  # of inference
    training_batch: int
    operator_batch: int
    compile_operators: bool
    clock: str
    seconds: float  # the whole run, compiling included

    @classmethod
    def read(cls, config: Any) -> Options:
        """From pytest's command line; defaults that depend on the device are filled in here."""

        def option(name: str) -> Any:
            # Where pytest meets this folder on its way through others, the options were never declared.
            return config.getoption(name, OPTIONS[name].get("default"))

        device = option("--device") or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = option("--dtype") or ("bfloat16" if device == "cuda" else "float32")
        return cls(
            target=Target(torch.device(device), DTYPES[dtype]),
            models=option("--models"),
            peers=option("--peers"),
            batches=option("--batches"),
            training_batch=option("--training-batch"),
            operator_batch=option("--operator-batch") or (128 if device == "cuda" else 8),
            compile_operators=option("--compile-operators"),
            clock=option("--clock"),
            seconds=option("--seconds"),
        )


def _names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(known) if text == "all" else tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _size(text: str) -> int:
    size = int(text)
    if size < 1:
        raise argparse.ArgumentTypeError(f"a batch must be at least 1, got {text}")
    return size


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(_size, text.split(",")))


ALL_PEERS = [peer.name for peer in PEERS]
DEFAULT_PEERS = tuple(peer.name for peer in PEERS if peer.default)
OPTIONS: dict[str, dict[str, Any]] = {
    "--models": {"type": _names(LAYERS), "default": ("alexnet",), "help": f"of {', '.join(LAYERS)}; or all"},
    "--peers": {"type": _names(ALL_PEERS), "default": DEFAULT_PEERS, "help": f"of {', '.join(ALL_PEERS)}; or all"},
    "--batches": {"type": _sizes, "default": (1, 16, 64), "help": "of inference"},
    "--training-batch": {"type": _size, "default": 32, "help": "batch of the training step"},
    "--operator-batch": {"type": _size, "help": "batch of single operators (default: 8, on a GPU 128)"},
    "--compile-operators": {"action": "store_true", "default": False, "help": "add torch.compile of their expressions"},
    "--device": {"choices": ("cpu", "cuda"), "help": "default: cuda where there is one"},
    "--dtype": {"choices": tuple(DTYPES), "help": "default: float32, on a GPU bfloat16"},
    "--clock": {
        "choices": tuple(CLOCKS),
        "default": "wall",
        "help": "cpu: CPU time on one thread, for a machine that others keep busy (default: wall)",
    },
    "--seconds": {"type": float, "default": 200.0, "help": "wall-clock the whole run aims at (default: 200)"},
}


def add_options(group: Any) -> None:
    """Declares the options on pytest's option group; several names are separated by commas."""
    for name, settings in OPTIONS.items():
        group.addoption(name, **settings)
