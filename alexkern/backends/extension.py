"""The compiled module, or why there is none. A missing one is no error: the other backends go on without it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from alexkern._nvcc import NOT_BUILT
from alexkern._sources import digest


def load(name: str = "alexkern._C", folder: Path = Path(__file__).parents[1]) -> tuple[ModuleType | None, str]:
    """The native module and "", or None and one line that says why not and what to do."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        built = sorted(path.name for path in folder.glob("_C.*"))
        if not isinstance(error, ModuleNotFoundError):
            return None, f"the native module does not load: {error}"
        record = folder / NOT_BUILT
        if record.exists():
            reason = record.read_text(encoding="utf-8")
            return (
                None,
                f"the native module was not built: at the install {reason}; mend that and run pip install again",
            )
        if built:
            return None, f"the native module was built for another Python ({', '.join(built)}): run pip install again"
        return None, f"the native module was not built: {folder} is not from an install; run pip install"
    wanted = digest(folder.parent)
    if wanted is not None and getattr(module, "sources", None) != wanted:
        return None, "the native module was built from other sources than those beside it: run pip install again"
    return module, ""


native, why_not = load()
