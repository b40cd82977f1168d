"""Packages that a test cannot do without, but that need not be there: it is skipped and says why."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest

from alexkern.optional import why_missing


def need(name: str) -> ModuleType:
    """The package, or a skip with the reason: of the test that asks, or of the module that asks at its head.

    pytest.importorskip lets every error but ImportError fail the test.
    """
    reason = why_missing(name)
    if reason is not None:
        pytest.skip(reason, allow_module_level=True)
    return importlib.import_module(name)
