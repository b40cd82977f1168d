"""Packages that alexkern can do without."""

from __future__ import annotations

import importlib

from alexkern.commands import first_line


def why_not(name: str) -> str | None:
    """Why a package cannot be imported, in one line, or None where it can.

    One that is there but broken may raise anything: torchvision beside another torch, for example, a RuntimeError.
    """
    try:
        importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            return f"{name} is not installed"
        return f"{name} is installed but broken: {first_line(error)}"
    return None
