"""Which of pytest-xdist's processes runs a test."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling


class OneProcessForTheGpu(LoadScopeScheduling):
    """By name, which is all that is known here: the marker xdist_group has no effect under pytest 9.2 (pytest-xdist's
    issue 1386)."""

    def _split_scope(self, nodeid: str) -> str:
        return "gpu" if "gpu" in nodeid else nodeid
