"""What a native module was built from. setup.py runs this file by its path too: the standard library only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def digest(root: Path, module: str) -> str | None:
    """Of all that alexkern._MODULE is made of in a checkout, or None where it is not there, as beside a package.

    Contents, because a switch of branches and back changes times; about 2 ms.
    """
    if not (root / "CMakeLists.txt").exists():
        return None
    shared = [root / "CMakeLists.txt", *sorted((root / "csrc").glob("*.*"))]
    found = hashlib.sha256()
    for path in shared:
        found.update(path.read_bytes())
    for folder, folders, files in os.walk(root / "csrc" / module):
        folders.sort()
        for name in sorted(files):
            with open(os.path.join(folder, name), "rb") as source:
                found.update(b"\0%s\0%s" % (name.encode(), source.read()))
    return found.hexdigest()


def not_built(package: Path, module: str) -> Path:
    """The file in which the install writes why it built no alexkern._MODULE."""
    return package / f"_{module}_not_built"
