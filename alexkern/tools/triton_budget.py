"""What a compiled kernel may cost: the rules that every kernel keeps on every target, as it is configured there.

`resources` and `atomics` hold for the CUDA C++ kernels too (alexkern/tools/cuda_budget.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from alexkern.cost.model import TENSOR_MEMORY_COLUMNS, limits
from alexkern.ops.registry import OPERATORS
from alexkern.tools.sass import ATOMICS, Code

if TYPE_CHECKING:
    from alexkern.tools.aot import Report

TENSOR_CORE = {90: "HGMMA", 100: "UTCHMMA"}  # wgmma, tcgen05; everywhere else mma.sync
MMA_SYNC = "HMMA"
# The kernels with these names move bytes.
MEMORY_BOUND = tuple(f"{operator.name}_" for operator in OPERATORS.values() if not operator.multiplies)


def violations(report: Report) -> list[str]:
    """What a kernel does that it may not, a line each; none where it keeps its budget."""
    broken = [*resources(report), *atomics(report)]
    if "BLOCK_K=" in report.tile:
        broken += _product(report)
    if report.kernel.startswith(MEMORY_BOUND):
        broken += _memory_bound(report)
    return [f"{report.workload} {report.call}, {report.kernel} on sm_{report.target}: {line}" for line in broken]


def resources(report: Code) -> list[str]:
    """Registers instead of local memory, and all that a block needs within a multiprocessor; a line for each breach."""
    broken = []
    spills = sum(report.opcodes.get(name, 0) for name in ("STL", "LDL"))
    if spills or report.local:  # a frame that nothing is kept in costs nothing
        broken.append(
            f"{spills} accesses to local memory, {report.stack} bytes of stack and {report.local} of local memory "
            f"at {report.registers} registers; wanted none"
        )
    most = limits(report.target).shared_per_block
    if report.shared > most:
        broken.append(f"{report.shared} bytes of shared memory; a block has {most} at most")
    if report.tensor_memory > TENSOR_MEMORY_COLUMNS:
        broken.append(f"{report.tensor_memory} columns of tensor memory; there are {TENSOR_MEMORY_COLUMNS}")
    if report.blocks < 1 and not broken:
        broken.append(f"no block fits: {report.registers} registers, {report.num_warps} warps, {report.shared} bytes")
    return broken


def atomics(report: Code) -> list[str]:
    """No atomic operations; a line where there are some."""
    found = {name: report.opcodes[name] for name in ATOMICS if name in report.opcodes}
    return [f"atomic operations {found}; every sum has one order"] if found else []


def _product(report: Report) -> list[str]:
    """A matrix product: tensor cores in the main loop but for IEEE float32, and no serialised wgmma.

    16-bit operands are copied 128 bits at a time. Of float32 ones the gradients' may be transposed on their way, number
    by number: wgmma and tcgen05 take TF32 only with the reduction innermost.
    """
    broken = []
    # wgmma and tcgen05 multiply 64 rows or more: a tile of fewer, for a handful of rows, takes mma.sync everywhere.
    rows = re.search(r"BLOCK_M=(\d+)", report.tile)
    few = rows is not None and int(rows[1]) < 64
    wanted = MMA_SYNC if few else TENSOR_CORE.get(report.target, MMA_SYNC)
    if report.arithmetic != "float32" and not report.main_loop.get(wanted):
        broken.append(f"no {wanted} in the main loop {report.main_loop}")
    if report.arithmetic in ("float16", "bfloat16") and any(width < 128 for width in report.copies):
        broken.append(f"copies to shared memory by width in bits {report.copies}; wanted 128 only")
    # Of the wgmma that make up one dot only the last ends a group, unless ptxas had to put a wait behind each.
    if report.target == 90 and report.products >= 4 and 2 * report.commits > report.products:
        broken.append(f"{report.commits} of {report.products} wgmma are waited for one by one")
    return broken


def _memory_bound(report: Report) -> list[str]:
    """At least half of the bytes in accesses of 128 bits.

    The rest are one-byte offsets, a dropout's seed, and the edges of a normalisation's window, several to an access.
    """
    broken = []
    for name, widths, least in (("loads", report.loads, 32), ("stores", report.stores, 64)):
        total = sum(width * number for width, number in widths.items())
        if not total or 2 * 128 * widths.get(128, 0) < total or min(widths) < least:
            broken.append(f"{name} by width in bits {widths}; wanted mostly 128, and none under {least}")
    return broken
