"""Images that cannot be read: skipped, counted and named, up to a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alexkern.data.samples import DataError


class DamageTally:
    """Says each damaged image once, and raises where there are more than `limit` of them."""

    def __init__(self, limit: int, report: Callable[[str], None]) -> None:
        self.limit = limit
        self.report = report
        self.seen: dict[str, str] = {}

    def add(self, damaged: Sequence[tuple[str, str]]) -> None:
        """Count those of a batch; DataError where the limit is passed."""
        for path, reason in damaged:
            if path in self.seen:
                continue
            self.seen[path] = reason
            if len(self.seen) > self.limit:
                raise DataError(
                    f"{len(self.seen)} images cannot be used, and --max-damaged is {self.limit}; the last: "
                    f"{path}: {reason}"
                )
            self.report(f"{path}: {reason}; left out")
