"""Runs bench/ with pytest from wherever it is installed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest


def main(arguments: Sequence[str] = ()) -> int:
    """Runs the comparison with `arguments` for pytest (options.py declares ours) and returns pytest's exit status."""
    here = Path(__file__).parent
    # No configuration file and no cache: an installed package must neither read the settings of a project around it nor
    # write beside its own modules.
    isolated = ["-c", os.devnull, f"--rootdir={here}", "-p", "no:cacheprovider"]
    collection = ["--import-mode=importlib", "-o", "python_files=bench_*.py", "-o", "python_functions=bench_*"]
    return int(pytest.main([str(here), *isolated, *collection, *arguments]))
