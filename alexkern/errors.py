"""The errors an operator raises about its arguments."""

from __future__ import annotations


class ArgumentError(ValueError, RuntimeError):
    """A tensor or number that an operator cannot take: which operator, which argument, what came, what is wanted.

    torch raises RuntimeError for a wrong shape and ValueError for a wrong number: code written for either catches this.
    """


def argument_error(operator: str, argument: str, got: object, want: str) -> ArgumentError:
    return ArgumentError(f"alexkern.{operator}: {argument} must be {want}, got {got}")
