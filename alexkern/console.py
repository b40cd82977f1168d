"""What is shown in a terminal."""

from __future__ import annotations

from typing import NoReturn

import rich.console


class Console(rich.console.Console):
    """rich's, but a closed pipe is an error here too, for `guarded` to see."""

    def on_broken_pipe(self) -> NoReturn:
        raise  # the error that rich is handling as it calls this


def printable(text: str) -> str:
    """One line safe for a terminal: control characters in file and class names could drive it."""
    return "".join(character if character.isprintable() else "?" for character in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
