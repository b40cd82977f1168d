"""A folder as one archive that keeps within a size: what is too long for it is cut at the middle, and that is said.

tools/chip.py runs this file by its path while the package is not there yet: the standard library only.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

LIMIT = 16 * 2**20
TEXT = (".log", ".txt", ".md")  # the half of anything else is of no use
CUTS = "CUT.txt"


def pack(folder: Path, archive: Path, limit: int = LIMIT) -> None:
    """Replaces the archive at once: whoever reads it finds the old one or the new one, whole."""
    unfinished = archive.with_name(f".{archive.name}.unfinished")
    others = (archive, unfinished)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in others)
    longest = max((path.stat().st_size for path in files), default=0)
    _write(folder, files, unfinished, longest)
    while unfinished.stat().st_size > limit and longest:
        longest = min(longest // 2, limit)
        _write(folder, files, unfinished, longest)
    os.replace(unfinished, archive)


def _write(folder: Path, files: list[Path], archive: Path, longest: int) -> None:
    """With at most `longest` bytes of each file."""
    cuts = ""
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for path in files:
            name = path.relative_to(folder).as_posix()
            size = path.stat().st_size
            if size <= longest:
                _add(tar, name, path.read_bytes(), path.stat().st_mtime)
            elif path.suffix in TEXT:
                cuts += f"{name}: {size - longest} of its {size} bytes are cut out of its middle\n"
                _add(tar, name, _cut(path, size, longest), path.stat().st_mtime)
            else:
                cuts += f"{name}: left out, it has {size} bytes\n"
        if cuts:
            _add(tar, CUTS, cuts.encode(), archive.stat().st_mtime)


def _cut(path: Path, size: int, longest: int) -> bytes:
    with path.open("rb") as file:
        head = file.read(longest // 2)
        file.seek(size - (longest - len(head)))
        return head + b"\n[... %d bytes are cut out here ...]\n" % (size - longest) + file.read()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mtime: float) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), int(mtime)
    tar.addfile(member, io.BytesIO(content))
