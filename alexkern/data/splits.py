"""Where training and validation images lie: two folders, or a share of one."""

from __future__ import annotations

import os
from pathlib import Path

from alexkern.data.folders import lines, some, visible
from alexkern.data.samples import DataError, Samples, find_samples, hold_out

TRAINING, VALIDATION = "train", ("val", "valid", "validation", "test")  # in any case; the first of several is taken


def find_sets(
    data: Path, val: str | None, share: float, seed: int, classes: tuple[str, ...] | None = None
) -> tuple[Samples, Samples, list[str]]:
    """Training images, validation images, and lines about them. `classes`: the network's, in its order.

    Raises:
        DataError: as `find_samples` and `hold_out`, or two folders for training, or other classes than the network's.
    """
    training_folder, validation_folder, notes = find_splits(data) if data.is_dir() else (data, None, [])
    training = find_samples(training_folder)
    if classes is not None:
        training = training.numbered(classes)
    notes += training.notes
    source = val or validation_folder
    if source is None:
        return (*hold_out(training, share, seed), notes)
    validation = find_samples(source, training.classes)
    return training, validation, notes + list(validation.notes)


def find_splits(root: Path) -> tuple[Path, Path | None, list[str]]:
    """The folders of training and, where there is one, validation images, and a line about those beside them.

    A folder `train` beside others, none of which is for validation, is a class.
    """
    found: dict[str, list[str]] = {}
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if visible(entry.name) and os.path.isdir(entry.path))
    for name in folders:
        found.setdefault(name.lower(), []).append(name)
    validation = next((name for name in VALIDATION if name in found), None)
    if TRAINING not in found or (validation is None and len(found) > 1):
        return root, None, []
    taken = [TRAINING, *([validation] if validation else [])]
    for name in taken:
        if len(found[name]) > 1:
            raise DataError(
                f"{root}: {some([repr(name) for name in found[name]])} differ in case only; wanted one {name}"
            )
    used = [found[name][0] for name in taken]
    others = [(str(root / name), f"beside {' and '.join(used)}") for name in folders if name not in used]
    return root / used[0], root / used[1] if validation else None, lines(others)
