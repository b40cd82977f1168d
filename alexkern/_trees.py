"""Whether what would be imported as alexkern comes from one tree: a checkout, or an installed package.

conftest.py runs this file by its path before anything of alexkern is imported: the standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

EXIT_MIXED = 4  # what pytest ends with where it was called wrongly


def mixed(here: Path | None = None) -> str | None:
    """What is of which tree, if alexkern, its kernels, its bench and the folder `here` are not of one, else None.

    A folder of tests without the packages beside them may test one that is installed whole, and nothing else.
    """
    package = _folder("alexkern", None)
    kernels, bench = (_folder(f"alexkern.{name}", [str(package)]) if package else None for name in ("kernels", "bench"))
    trees = {"alexkern": package and package.parent}
    for name, folder in {"alexkern.kernels": kernels, "alexkern.bench": bench}.items():
        trees[name] = folder and (folder.parent.parent if folder.parent == package else folder.parent)
    whole = package is not None and kernels == package / "kernels"
    if here and ((here / "alexkern").exists() or not whole):
        trees["this folder"] = here.resolve()
    if package and len(set(trees.values())) == 1:
        return None
    places = ", ".join(f"{name} is of {tree or 'no tree'}" for name, tree in trees.items())
    return f"not of one tree: {places}; run pip install -e . in the one that is meant, and start there"


def _folder(name: str, inside: list[str] | None) -> Path | None:
    """Of a package, found as an import would, without importing it or the package around it."""
    specs = (finder.find_spec(name, inside) for finder in sys.meta_path)
    spec = next(filter(None, specs), None)
    return Path(spec.origin).resolve().parent if spec and spec.origin else None
