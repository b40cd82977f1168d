"""What a kernel whose time is that of its bytes loads and stores: said beside its launcher, as WIDE.

alexkern/tools/cuda_budget.py holds what nvcc made of it to that.
"""

from __future__ import annotations

from typing import NamedTuple

OFFSETS = frozenset({32, 64})  # one byte a value: of four, of eight


class Wide(NamedTuple):
    """The instantiations that serve whole vectors.

    Every one loads and stores 128 bits at a time, but for `runs`; what else it may load and store is given as widths in
    bits, None for any: the branch for a tensor's ragged end, or the edges of a window, which the compiler trims.
    """

    name: str  # a regular expression
    loads: frozenset[int] | None = None
    stores: frozenset[int] | None = None
    runs: bool = False  # loads are runs of four values of the source, be they 4, 8 or 16 bytes
