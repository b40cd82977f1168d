"""Packages that alexkern can use and does not need."""

from __future__ import annotations

import functools
import importlib
import sys

PEERS = "pip install 'alexkern[peers]'"  # the extra that has onnx, onnxruntime, onnxscript, openvino and torchvision


@functools.cache
def why_missing(package: str, install: str = "") -> str | None:
    """None where `package` imports; else why it does not, in one line, and where it is absent how to `install` it.

    What is there can be broken, and then raises whatever it likes. It is imported once: a second try would find its
    half, and tell less.
    """
    try:
        importlib.import_module(package)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{package}.".startswith(f"{error.name}."):
            return f"{package} is not installed" + (f" ({install})" if install else "")
        return f"{package} does not import: {' '.join(str(error).split()) or type(error).__name__}"
    return None


def version(package: str) -> str:
    """Of a package that imports; else "none" and why."""
    reason = why_missing(package)
    return f"none ({reason})" if reason else str(getattr(sys.modules[package], "__version__", "of no known version"))
