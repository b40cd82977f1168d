"""What is drawn, printed and chosen, as it was when somebody last looked at it: pinned.txt has a section for each.

`pytest --pin` writes anew those that differ. What then differs in git was meant to, or is a fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import unified_diff
from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")
MARK = "=== "
anew = False  # whether --pin was given


def hold(name: str, found: Iterable[str]) -> None:
    """These lines are those of the section, but for blanks at their ends."""
    lines = [line.rstrip() for line in found]
    sections = dict(text.split("\n", 1) for text in FILE.read_text(encoding="utf-8").split(MARK)[1:])
    pinned = sections.get(name, "").splitlines()
    if lines != pinned and anew:
        sections[name] = "".join(f"{line}\n" for line in lines)
        FILE.write_text("".join(f"{MARK}{one}\n{text}" for one, text in sections.items()), encoding="utf-8")
        return
    assert lines == pinned, "\n".join(
        ("pytest --pin, if that is meant:", *unified_diff(pinned, lines, name, "found", lineterm=""))
    )
