"""The compiled modules, or why there are none. A missing one is no error: the other backends go on without it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from alexkern._sources import digest, not_built

AGAIN = "run pip install again"


class Extension:
    """`module` is alexkern._NAME, made of csrc/NAME; or None, and `why_not` one line that says why and what to do."""

    def __init__(self, name: str, package: Path = Path(__file__).parents[1]) -> None:
        self.module: ModuleType | None = None
        self.why_not = ""
        try:
            module = importlib.import_module(f"alexkern._{name}")
        except ModuleNotFoundError:
            self.why_not = f"alexkern._{name} was not built: {_why_not_built(name, package)}"
        except ImportError as error:
            self.why_not = f"alexkern._{name} does not load: {error}"
        else:
            wanted = digest(package.parent, name)
            if wanted is None or getattr(module, "sources", None) == wanted:
                self.module = module
            else:
                self.why_not = f"alexkern._{name} was built from other sources than those beside it: {AGAIN}"


def _why_not_built(name: str, package: Path) -> str:
    record = not_built(package, name)
    if record.exists():
        return f"at the install {record.read_text(encoding='utf-8')}; mend that and {AGAIN}"
    if built := sorted(path.name for path in package.glob(f"_{name}.*")):
        return f"{', '.join(built)} is for another Python; {AGAIN}"
    return f"{package} is not from an install; run pip install"


cpu = Extension("cpu")
cuda = Extension("cuda")
