"""Text files of users: lists of images, class names."""

from __future__ import annotations

import os


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a UTF-8 file, without a byte order mark and in any system's line ends.

    Bytes that are not UTF-8 come as Python has them in the names of files, so that a list may name any file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no text, or text of another coding.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read()
    if "\0" in text:
        raise ValueError("not text in UTF-8")
    return text.split("\n")
