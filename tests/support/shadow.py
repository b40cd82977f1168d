"""Triton's interpreter with a second arithmetic: what 32-bit places would be in 64 bits, compared where they count.

A place that wraps is harmless until it is an address, or says which lanes load and store. So whatever wraps carries
its exact value along, through shapes, casts, selects and comparisons, and every load and store compares the lanes that
it takes. Unsigned numbers may wrap where they are only compared: that is what a kernel takes them for.

The launch is checked as well: the device's limits of a grid hold in the interpreter too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

GRID = (2**31 - 1, 65535, 65535)
WRAPPING = ("create_add", "create_sub", "create_mul", "create_shl", "create_int_cast")
PASSING = (
    *("create_sdiv", "create_udiv", "create_srem", "create_urem", "create_minsi", "create_maxsi", "create_select"),
    *("create_icmpSLE", "create_icmpSLT", "create_icmpSGE", "create_icmpSGT", "create_icmpEQ", "create_icmpNE"),
    *("create_and", "create_or", "create_reshape", "create_trans", "create_expand_dims", "create_broadcast"),
    *("create_splat", "create_unsplat", "create_join", "create_cat", "create_gather", "create_addptr"),
)


def install() -> None:
    """Once a process."""
    from triton.language import int64, pointer_type
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def exact(handle: Any) -> np.ndarray[Any, Any] | None:
        return getattr(handle, "exact", None)

    def widened(handle: Any) -> Any:
        """The handle of the exact values; masks and pointers keep their type."""
        if not isinstance(handle, TensorHandle):
            return handle
        data = handle.data if exact(handle) is None else exact(handle)
        if isinstance(handle.dtype.scalar, pointer_type) or data.dtype.kind not in "iu":
            return TensorHandle(data, handle.dtype)
        return TensorHandle(data.astype(np.int64), int64)

    def carrying(method: Callable[..., Any], wraps: bool, casts: bool) -> Callable[..., Any]:
        def call(self: Any, *args: Any) -> Any:
            result = method(self, *args)
            narrow = wraps and result.data.dtype.kind in "iu" and result.data.itemsize == 4
            if narrow or any(exact(arg) is not None for arg in args):
                wide = widened(args[0]) if casts else method(self, *map(widened, args))
                if not np.array_equal(wide.data, result.data):
                    result.exact = wide.data
            return result

        return call

    def compared(method: Callable[..., Any], mask: int) -> Callable[..., Any]:
        """mask: which of the arguments behind the pointers it is."""

        def call(self: Any, pointers: Any, *args: Any) -> Any:
            wraps = "a comparison that wraps in 32 bits says which lanes there are"
            assert exact(args[mask]) is None or np.array_equal(exact(args[mask]), args[mask].data), wraps
            if exact(pointers) is not None:
                assert not (args[mask].data & (exact(pointers) != pointers.data)).any(), "an address wraps in 32 bits"
            return method(self, pointers, *args)

        return call

    def bounded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *grid: int) -> Any:
            assert all(0 <= size <= limit for size, limit in zip(grid, GRID, strict=True)), (
                f"no device has grids {grid}"
            )
            return method(self, *grid)

        return call

    for name in (*WRAPPING, *PASSING):
        method = getattr(InterpreterBuilder, name)
        setattr(InterpreterBuilder, name, carrying(method, name in WRAPPING, name == "create_int_cast"))
    for name, mask in (("create_masked_load", 0), ("create_masked_store", 1)):
        setattr(InterpreterBuilder, name, compared(getattr(InterpreterBuilder, name), mask))
    InterpreterBuilder.set_grid_dim = bounded(InterpreterBuilder.set_grid_dim)
