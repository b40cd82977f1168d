"""What the native module was built from. setup.py runs this file by its path too: the standard library only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def digest(root: Path) -> str | None:
    """Of all that the native module is made of in a checkout, or None where it is not there, as beside a package.

    Contents, because a switch of branches and back changes times; about 2 ms.
    """
    build = root / "CMakeLists.txt"
    if not build.exists():
        return None
    found = hashlib.sha256(build.read_bytes())
    for folder, folders, files in os.walk(root / "csrc"):
        folders[:] = sorted(name for name in folders if name != "emulator")
        for name in sorted(files):
            with open(os.path.join(folder, name), "rb") as source:
                found.update(b"\0%s\0%s" % (name.encode(), source.read()))
    return found.hexdigest()
