"""Checkpoints that are whole or not there: written beside, flushed to the disk, then renamed.

A run's folder has checkpoint.pt and, once there was a second, the one before it as previous.pt. At every moment at
least one of them is whole. Nothing in them is ever run: they are read with `weights_only=True`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

from alexkern.console import first_line
from alexkern.training.errors import RunFailed, TrainingError

FORMAT = "alexkern checkpoint 1"
NAME, PREVIOUS = "checkpoint.pt", "previous.pt"
KEYS = (
    "settings", "classes", "images", "model", "optimizer", "scaler", "schedule", "progress", "sums", "generators",
)  # fmt: skip


def save(folder: Path, content: dict[str, Any]) -> Path:
    """Write a checkpoint; the last one becomes previous.pt.

    Raises:
        RunFailed: the disk is full or the folder cannot be written to. What was there is still there.
    """
    path, partial, spare = folder / NAME, folder / f"{NAME}.partial", folder / f"{PREVIOUS}.partial"
    try:
        with open(partial, "wb") as file:
            torch.save({"format": FORMAT} | content, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _keep(path, spare)
        os.replace(partial, path)
        _flush(folder)
    except (OSError, RuntimeError) as error:
        for left in (partial, spare):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        kept = f"; {path} is the one before" if path.exists() else ""
        raise RunFailed(f"{path}: cannot be saved ({reason(error)}){kept}") from None
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, on the CPU.

    Raises:
        TrainingError: there is none, it is cut short or damaged, or it is something else.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such checkpoint")
    previous = path.with_name(PREVIOUS)
    hint = f"; {previous} is the one before: --resume {previous}" if previous.is_file() and path != previous else ""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file may fail in any way at all
        raise TrainingError(f"{path}: not a whole checkpoint, it is cut short or damaged{hint}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not set(KEYS) <= set(content):
        raise TrainingError(f"{path}: not a checkpoint of alexkern train{hint}")
    return content


def newest(folder: Path) -> Path:
    """The checkpoint to resume a folder from."""
    for name in (NAME, PREVIOUS):
        if (folder / name).is_file():
            return folder / name
    raise TrainingError(f"{folder}: no checkpoint to resume from")


def _keep(path: Path, spare: Path) -> None:
    """Call a checkpoint previous.pt too: by a second name, so that there is no moment without a checkpoint.pt."""
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links: for a moment there is previous.pt alone
        os.replace(path, spare)
    os.replace(spare, path.with_name(PREVIOUS))


def _flush(folder: Path) -> None:
    """Make the renames last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def reason(error: Exception) -> str:
    """Why a file cannot be written."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return first_line(error)
