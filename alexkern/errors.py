"""What alexkern raises, and how an error is shown."""

from __future__ import annotations


class BackendUnavailable(RuntimeError):
    """The backend asked for cannot serve this call; the message says what is missing and what to install."""


class ArgumentError(ValueError, RuntimeError):
    """A tensor or number that an operator cannot take: which operator, which argument, what came, what is wanted.

    torch raises RuntimeError for a wrong shape and ValueError for a wrong number: code written for either catches this.
    """


def argument_error(operator: str, argument: str, got: object, want: str) -> ArgumentError:
    return ArgumentError(f"alexkern.{operator}: {argument} must be {want}, got {got}")
