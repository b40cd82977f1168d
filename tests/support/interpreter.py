"""What Triton's interpreter cannot do, by no fault of a kernel."""

from __future__ import annotations

from importlib import metadata

REFUSAL = "only 0-dimensional arrays can be converted to Python scalars"


def fault(error: BaseException | None) -> str | None:
    """Why a test that raised this says nothing about a kernel, or None where it does.

    For the bounds of a loop the interpreter before Triton 3.7 takes int() of an array of one element, and NumPy from
    2.4 on refuses that.
    """
    try:
        triton, numpy = (metadata.version(package) for package in ("triton", "numpy"))
    except metadata.PackageNotFoundError:
        return None
    if _release(triton) >= (3, 7) or _release(numpy) < (2, 4):
        return None
    while error is not None and REFUSAL not in str(error):
        error = error.__cause__
    return error and f"Triton {triton}'s interpreter cannot loop over a tensor's value with NumPy {numpy}"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split(".")[:2])
