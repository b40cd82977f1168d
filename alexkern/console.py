"""What is shown in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

import rich.console


class Console(rich.console.Console):
    """rich's, but a closed pipe is an error here too, for `guarded` to see."""

    def on_broken_pipe(self) -> NoReturn:
        raise  # the error that rich is handling as it calls this


def printable(text: str) -> str:
    """One line safe for a terminal: control characters in file and class names could drive it."""
    return "".join(character if character.isprintable() else "?" for character in text)


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines, in columns as wide as they need; one that is empty is left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True)]


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def named(error: BaseException) -> str:
    """The same behind the error's type."""
    return f"{type(error).__name__}: {first_line(error)}"
