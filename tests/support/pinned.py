"""What is drawn and printed. pinned.txt has a section for each, to be written anew where it is meant to differ."""

from __future__ import annotations

from pathlib import Path

PINNED = Path(__file__).with_suffix(".txt")


def pinned(name: str) -> list[str]:
    """The lines below `=== name`."""
    sections = PINNED.read_text(encoding="utf-8").split("=== ")
    return next(one for one in sections if one.startswith(f"{name}\n")).splitlines()[1:]
