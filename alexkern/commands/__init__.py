"""The commands behind `alexkern`, and what they share."""

from __future__ import annotations

import argparse


class CommandError(Exception):
    """Bad input to a command. The message is one line for the user: what, and what is wrong with it."""


def printable(text: str) -> str:
    """One line safe for a terminal: control characters in file and class names could drive it."""
    return "".join(character if character.isprintable() else "?" for character in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


def positive(text: str) -> int:
    """An option's value: a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got {text!r}")
    return int(text)
