"""The cost model: what it chooses for every layer of the AlexNets is pinned in support/choices.txt."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")
from support import choices  # noqa: E402

PINNED = Path(choices.__file__).with_suffix(".txt")


def test_choices_are_those_that_are_pinned() -> None:
    """A line that differs is a choice that has changed: where that is meant, write the file anew."""
    pinned = [line for line in PINNED.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert list(choices.lines()) == pinned
