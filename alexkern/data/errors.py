"""The error about data that cannot be trained on."""

from __future__ import annotations


class DataError(ValueError):
    """A folder, a list or too many of its images cannot be used. The message is one line for the user."""
