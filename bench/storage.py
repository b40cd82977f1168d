"""Where pytest-benchmark keeps what it saves."""

from __future__ import annotations

import os
from typing import Any


def make_no_empty_folder(config: Any) -> None:
    """It makes the folder of its saved runs when it starts: where none is saved or read, it gets one that is there."""
    if not any(config.getoption(f"benchmark_{name}", None) for name in ("save", "autosave", "compare")):
        config.option.benchmark_storage = f"file://{os.curdir}"
