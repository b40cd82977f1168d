"""What belongs to the whole process: every test finds it the same, and leaves it as it was."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

import alexkern
from alexkern import dispatch

SEED = 20120930
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "25"}
COLORS = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}


def _set_environment(wanted: dict[str, str]) -> None:
    for name in _environment().keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _precisions() -> tuple[str, ...]:
    return tuple(backend.fp32_precision for backend in _BACKENDS)


def _set_precisions(wanted: tuple[str, ...]) -> None:
    for backend, precision in zip(_BACKENDS, wanted, strict=True):
        backend.fp32_precision = precision


_BACKENDS: Any = tuple(
    getattr(backend, kind) for backend in (torch.backends.mkldnn, torch.backends.cudnn) for kind in ("conv", "rnn")
)
STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "alexkern's backend": (alexkern.current_backend, alexkern.set_backend),
    "torch's threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's default device": (torch.get_default_device, lambda _: torch.set_default_device(None)),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "the convolutions' precision": (_precisions, _set_precisions),
    "the current folder": (os.getcwd, os.chdir),
}


@contextmanager
def kept() -> Iterator[None]:
    """Within the block caches are empty, random numbers seeded and terminals plain; what it left changed is named.

    The environment is put back without a word: torch's compiler writes into it.
    """
    dispatch.forget()
    dispatch._warned.clear()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    before = {what: read() for what, (read, _) in STATE.items()}
    environment = _environment()
    _set_environment({name: value for name, value in environment.items() if name not in COLORS} | TERMINAL)
    yield
    _set_environment(environment)
    changed = [what for what, (read, _) in STATE.items() if read() != before[what]]
    for what in changed:
        STATE[what][1](before[what])
    assert not changed, f"left changed: {', '.join(changed)}"
