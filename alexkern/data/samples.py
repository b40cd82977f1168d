"""Which images there are and what they show: a folder of class folders, or a list file."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alexkern.data.decode import EXTENSIONS
from alexkern.data.folders import lines, some, walk
from alexkern.data.text import read_lines


class DataError(ValueError):
    """A folder, a list or too many of its images cannot be used. The message is one line for the user."""


@dataclass(frozen=True)
class Samples:
    """Images by path, the class of each as an index into `classes`, and lines about what was found beside them."""

    source: str
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Sequence[int]) -> Samples:
        """Some of the images, in that order."""
        paths, labels = tuple(self.paths[i] for i in indices), tuple(self.labels[i] for i in indices)
        return Samples(self.source, paths, labels, self.classes)

    def numbered(self, classes: tuple[str, ...]) -> Samples:
        """The same images, their classes numbered as a network has them.

        Raises:
            DataError: they are other classes.
        """
        if difference := other_classes(classes, self.classes):
            raise DataError(f"{self.source}: {difference}")
        numbers = [classes.index(name) for name in self.classes]
        return Samples(self.source, self.paths, tuple(numbers[label] for label in self.labels), classes, self.notes)


def other_classes(wanted: Sequence[str], found: Sequence[str]) -> str:
    """How the classes of images differ from those of a network; nothing where they are the same in any order."""
    missing, more = (
        [repr(name) for name in a if name not in b] for a, b in ((wanted, set(found)), (found, set(wanted)))
    )
    if not (missing or more):
        return ""
    parts = [f"{kind} {some(names)}" for kind, names in (("without", missing), ("with", more)) if names]
    return f"{len(found)} classes, and the network has {len(wanted)}: here {' and '.join(parts)}"


def find_samples(source: str | os.PathLike[str], classes: tuple[str, ...] | None = None) -> Samples:
    """The images of a folder, SOURCE/CLASS/.../IMAGE, or of a text file with a path and a class a line.

    In a list, a tab or the last space separates path and class; paths are relative to the list; empty lines and those
    that begin with # say nothing. Classes are sorted by code point, as torchvision's ImageFolder does. `classes` are
    those that must be there: the classes of a validation set are those of its training set.

    Raises:
        DataError: nothing there, a class without images, fewer than two classes, a class that is not among `classes`,
            or a line without a class.
    """
    path = Path(source)
    if path.is_dir():
        named, empty, notes = _walk(path)
    elif path.is_file():
        named, empty, notes = _read_list(path), [], []
    else:
        raise DataError(f"{path}: no such folder or list file")
    if empty and classes is None:
        raise DataError(f"{some(empty)}: a class folder without images ({', '.join(EXTENSIONS)})")
    if not named:
        raise DataError(f"{path}: no images; wanted folders of images, {path}/CLASS/IMAGE, or lines of 'IMAGE CLASS'")
    counts = Counter(name for _, name in named)
    found = sorted(counts)
    if classes is None:
        if len(found) < 2:
            raise DataError(f"{path}: only one class, {found[0]!r}; wanted two or more")
        classes = tuple(found)
        notes += _doubts(counts)
    if unknown := [repr(name) for name in found if name not in set(classes)]:
        raise DataError(f"{path}: class {some(unknown)} is not one of the {len(classes)} that are trained")
    index = {name: number for number, name in enumerate(classes)}
    return Samples(
        str(path), tuple(file for file, _ in named), tuple(index[name] for _, name in named), classes, tuple(notes)
    )


def hold_out(samples: Samples, share: float, seed: int) -> tuple[Samples, Samples]:
    """Two disjoint parts, the second with this share of every class, rounded, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(samples), generator=generator).tolist()
    members: list[list[int]] = [[] for _ in samples.classes]
    for index in shuffled:
        members[samples.labels[index]].append(index)
    kept: list[int] = []
    held: list[int] = []
    for its in members:
        count = min(round(share * len(its)), len(its) - 1)
        held += its[:count]
        kept += its[count:]
    if not held:
        raise DataError(f"{samples.source}: too few images to hold out {share:.0%} of them; name others with --val")
    return samples.select(sorted(kept)), samples.select(sorted(held))


def _walk(root: Path) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Images with their classes, class folders without any, and lines."""
    files, folders, notes = walk(str(root))
    inside = [(file, Path(file).relative_to(root).parts) for file in files]
    images = [(file, parts) for file, parts in inside if file.lower().endswith(EXTENSIONS)]
    named = [(file, parts[0]) for file, parts in images if len(parts) > 1]
    left = [
        (file, "not named as an image")
        for file, parts in inside
        if len(parts) > 1 and not file.lower().endswith(EXTENSIONS)
    ]
    left += [(file, "outside of the class folders") for file, parts in images if len(parts) == 1]
    full = {name for _, name in named}
    empty = [folder for folder in folders if Path(folder).parent == root and Path(folder).name not in full]
    return named, empty, notes + lines(left)


def _doubts(counts: Counter[str]) -> list[str]:
    """Lines about classes that may be none."""
    alike: dict[str, list[str]] = {}
    for name in sorted(counts):
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(repr(name))
    notes = [f"classes {' and '.join(names)} differ in case or coding only" for names in alike.values() if names[1:]]
    if single := [repr(name) for name in sorted(counts) if counts[name] == 1]:
        notes.append(f"a class of one image, which none validates: {some(single)}")
    return notes


def _read_list(path: Path) -> list[tuple[str, str]]:
    named = []
    try:
        read = read_lines(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a list of images ({error})") from None
    for number, line in enumerate(read, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        image, separator, name = line.rpartition("\t" if "\t" in line else " ")
        if not separator or not image.strip() or not name.strip():
            raise DataError(f"{path}, line {number}: wanted an image and its class, got {line!r}")
        named.append((os.path.join(path.parent, image.strip()), name.strip()))
    return named
