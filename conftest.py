"""Ends pytest where it would test another tree than this one, before tests/ or bench/ imports anything of alexkern."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent


def pytest_addoption() -> None:  # adds none: it is what pytest calls as soon as it has read this file
    beside = ROOT / "alexkern" / "_trees.py"
    if beside.exists():
        reason = runpy.run_path(str(beside))["mixed"](ROOT)
    else:
        from alexkern._trees import mixed

        reason = mixed(ROOT)
    if reason is not None:
        raise pytest.UsageError(reason)
