"""Which images there are and what they show: a folder of class folders, or a list file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alexkern.data.decode import EXTENSIONS


class DataError(ValueError):
    """A folder, a list or too many of its images cannot be used. The message is one line for the user."""


@dataclass(frozen=True)
class Samples:
    """Images by path, the class of each as an index into `classes`, and the files that were left out as no images."""

    source: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Sequence[int]) -> Samples:
        """Some of the images, in that order."""
        paths, labels = tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices)
        return Samples(self.source, paths, labels, self.classes)


def find_samples(source: str | os.PathLike[str], classes: tuple[str, ...] | None = None) -> Samples:
    """The images of a folder, SOURCE/CLASS/.../IMAGE, or of a text file with a path and a class a line.

    In a list, a tab or the last space separates path and class; paths are relative to the list; empty lines and those
    that begin with # say nothing. Classes are sorted by name, as numbers where all of them are numbers. `classes` are
    those that must be there: the classes of a validation set are those of its training set.

    Raises:
        DataError: nothing there, a class without images, fewer than two classes, a class that is not among `classes`,
            or a line without a class.
    """
    path = Path(source)
    if path.is_dir():
        named, ignored = _walk(path)
    elif path.is_file():
        named, ignored = _read_list(path), []
    else:
        raise DataError(f"{path}: no such folder or list file")
    if not named:
        raise DataError(f"{path}: no images; wanted folders of images, {path}/CLASS/IMAGE, or lines of 'IMAGE CLASS'")
    names_here = {name for _, name in named}
    found = sorted(names_here, key=int if all(name.isdecimal() for name in names_here) else str)
    if classes is None:
        if len(found) < 2:
            raise DataError(f"{path}: only one class, {found[0]!r}; wanted two or more")
        classes = tuple(found)
    unknown = [name for name in found if name not in classes]
    if unknown:
        raise DataError(f"{path}: class {unknown[0]!r} is not one of the {len(classes)} that are trained")
    index = {name: number for number, name in enumerate(classes)}
    paths, names = zip(*named, strict=True)
    return Samples(str(path), paths, tuple(index[name] for name in names), classes, tuple(ignored))


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Two disjoint parts, the second with this share of every class, rounded, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(samples), generator=generator).tolist()
    kept: list[int] = []
    held: list[int] = []
    for label in range(len(samples.classes)):
        members = [index for index in shuffled if samples.labels[index] == label]
        count = min(round(share * len(members)), len(members) - 1)
        held += members[:count]
        kept += members[count:]
    if not held:
        raise DataError(f"{samples.source}: too few images to hold out {share:.0%} of them; name others with --val")
    return samples.select(sorted(kept)), samples.select(sorted(held))


def _walk(root: Path) -> tuple[list[tuple[str, str]], list[str]]:
    named: list[tuple[str, str]] = []
    ignored: list[str] = []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."):
        files = sorted(
            os.path.join(place, name)
            for place, _, names in os.walk(folder, followlinks=True)
            for name in names
            if name[0] != "."
        )
        images = [file for file in files if file.lower().endswith(EXTENSIONS)]
        ignored += [file for file in files if not file.lower().endswith(EXTENSIONS)]
        if not images:
            raise DataError(f"{folder}: a class folder without images ({', '.join(EXTENSIONS)})")
        named += [(file, folder.name) for file in images]
    return named, ignored


def _read_list(path: Path) -> list[tuple[str, str]]:
    named = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of images ({error})") from None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        image, separator, name = line.rpartition("\t" if "\t" in line else " ")
        if not separator or not image.strip() or not name.strip():
            raise DataError(f"{path}, line {number}: wanted an image and its class, got {line!r}")
        named.append((os.path.join(path.parent, image.strip()), name.strip()))
    return named
