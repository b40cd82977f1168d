"""What Triton's interpreter cannot do, by no fault of a kernel, and what it does for nothing."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from typing import Any

REFUSAL = "only 0-dimensional arrays can be converted to Python scalars"


def hasten() -> None:
    """Half of an interpreted kernel's time, without another result. Once a process.

    - Sums and products of integers are formed again in 64 bits for an assertion that debug=False leaves out;
      support/shadow.py compares with what they would be in 64 bits, where it counts.
    - A function called in a kernel searches the whole language for what to replace, which the kernel's launch or a
      call before it has done.
    - NumPy's name of a dtype is looked up in a dictionary built for it.
    """
    from triton.runtime import interpreter

    options = interpreter.interpreter_builder.options
    assert not options.debug
    interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    launch, replace, look_up = interpreter.GridExecutor.__call__, interpreter._patch_lang, interpreter._get_np_dtype
    replaced: set[int] = set()
    dtypes: dict[str, Any] = {}

    def replace_once(fn: Any) -> Any:
        if id(fn.__globals__) in replaced:
            return None
        replaced.add(id(fn.__globals__))
        return replace(fn)

    def launch_afresh(self: Any, *args: Any, **kwargs: Any) -> Any:
        replaced.clear()
        return launch(self, *args, **kwargs)

    def look_up_once(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in dtypes:
            dtypes[name] = look_up(dtype)
        return dtypes[name]

    interpreter.GridExecutor.__call__ = launch_afresh
    interpreter._patch_lang, interpreter._get_np_dtype = replace_once, look_up_once


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
