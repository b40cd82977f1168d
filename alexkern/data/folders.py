"""What lies below a folder: its files in a total order, and a line for what is left out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

SYSTEMS = ("__macosx", "@eadir", "thumbs.db", "desktop.ini")  # what systems leave behind, in lower case
LOOP = "a link to a folder that contains it or was walked already"


def visible(name: str) -> bool:
    """Whether a file or folder is a user's own: hidden ones begin with a dot."""
    return not name.startswith(".") and name.lower() not in SYSTEMS


def walk(root: str) -> tuple[list[str], list[str], list[str]]:
    """The visible regular files below a folder, the folders, and lines; by code point, whatever the file system.

    Links are followed last, and a folder is walked once: what lies in the tree itself is found there.
    """
    files: list[str] = []
    walked: list[str] = []
    left: list[tuple[str, str]] = []  # path, why
    seen: set[tuple[int, int]] = set()
    folders, links = deque[str](), deque([root])
    while folders or links:
        linked = not folders
        folder = links.popleft() if linked else folders.popleft()
        try:
            if _identity(folder) in seen:
                left.append((folder, LOOP))
                continue
            seen.add(_identity(folder))
            if linked:  # what contains its target may be reached from inside
                seen |= {_identity(parent) for parent in Path(os.path.realpath(folder)).parents}
            with os.scandir(folder) as entries:
                for entry in sorted((entry for entry in entries if visible(entry.name)), key=lambda entry: entry.name):
                    if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                        (links if entry.is_symlink() else folders).append(entry.path)
                    elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():
                        files.append(entry.path)
                    else:
                        left.append((entry.path, "no regular file"))
            walked.append(folder)
        except OSError as error:
            left.append((folder, error.strerror or "cannot be read"))
    return sorted(files, key=_parts), sorted(walked[1:], key=_parts), lines(left)


def lines(left: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each reason: the first thing that was left out for it, and how many more."""
    by_reason: dict[str, list[str]] = {}
    for what, reason in left:
        by_reason.setdefault(reason, []).append(what)
    return [f"{some(sorted(whats))}: {reason}; left out" for reason, whats in by_reason.items()]


def some(names: Sequence[str]) -> str:
    """The first of several, and how many more there are."""
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def _parts(path: str) -> list[str]:
    return path.split(os.sep)


def _identity(folder: str | Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino
