"""What a CUDA C++ kernel may cost, read from what nvcc made of it: rules for all, for products, for what moves bytes.

Those for all are shared with the Triton kernels (alexkern/tools/triton_budget.py).
"""

from __future__ import annotations

import re

from alexkern import dispatch
from alexkern.backends.cuda.wide import Wide
from alexkern.tools import triton_budget as budget
from alexkern.tools.instantiations import Instantiation

RETURN = {"EXIT", "BRA", "NOP", "LDC", "IMAD", "MOV"}  # what an empty kernel is made of
# Instructions of kernels whose threads do little: what is divided there is divided by multiplying.
MOST_INSTRUCTIONS = {("conv2d_relu", r"reduce_kernel<\w+, \d>"): 320}
MOST_OF_A_STEP = 52  # instructions of sm90's main loop, four of them products


def violations(kernel: Instantiation) -> list[str]:
    """What a kernel does that it may not, a line each; none where it keeps its budget."""
    broken = budget.atomics(kernel)
    if _is_of_sm90(kernel) and kernel.target != 90:
        broken += _absence(kernel)
    elif kernel.launched:
        broken += budget.resources(kernel)
    else:
        broken.append("no launch of it is known, nor its shared memory: a case of its reference has to make one")
    if kernel.spilled:
        broken.append(f"{kernel.spilled} bytes of spilled registers, at {kernel.registers} registers")
    if "mma::" in kernel.kernel:
        broken += _product(kernel)
    if _is_of_sm90(kernel) and kernel.target == 90:
        broken += _asynchronous_product(kernel)
    for rule in rules(kernel.operator):
        if re.fullmatch(rule.name, kernel.kernel):
            broken += _wide("stores", kernel.stores, rule.stores)
            if not rule.runs:
                broken += _wide("loads", kernel.loads, rule.loads)
            elif 4 * min(kernel.loads) not in kernel.loads:
                broken.append(f"loads by width in bits {kernel.loads}; wanted four values at once, and single ones")
    for (operator, name), most in MOST_INSTRUCTIONS.items():
        if operator == kernel.operator and re.fullmatch(name, kernel.kernel):
            broken += _small(kernel, most)
    return [f"{kernel.operator}: {kernel.kernel} on sm_{kernel.target}: {line}" for line in broken]


def rules(operator: str) -> tuple[Wide, ...]:
    """Of the folder of csrc/cuda: what its launcher says of it."""
    if dispatch.absent("cuda", operator) is not None:
        return ()
    return getattr(dispatch.implementation("cuda", operator), "WIDE", ())


def _is_of_sm90(kernel: Instantiation) -> bool:
    """Whether a kernel is made of sm_90a's own instructions, and of none elsewhere."""
    return kernel.operator == "sm90"


def _absence(kernel: Instantiation) -> list[str]:
    """Nothing but a return: where the instructions are not, nobody launches it."""
    rest = sorted(set(kernel.opcodes) - RETURN)
    return [f"instructions {rest} in a kernel that is for sm_90a alone"] if rest else []


def _product(kernel: Instantiation) -> list[str]:
    """Tensor cores in the main loop but for plain float32, and operands that come 128 bits at a time.

    Instantiations for images of up to four 16-bit channels have copies of 8 bytes.
    """
    broken = []
    if "mma::Fp32" not in kernel.kernel and not kernel.main_loop.get("HMMA"):
        broken.append(f"no HMMA in the main loop {kernel.main_loop}")
    allowed = {64, 128} if re.search(r", 8\b[^<]*>$", kernel.kernel) else {128}
    if not kernel.copies or not set(kernel.copies) <= allowed:
        broken.append(f"copies to shared memory by width in bits {kernel.copies}; wanted {sorted(allowed)} only")
    return broken


def _asynchronous_product(kernel: Instantiation) -> list[str]:
    """wgmma in the main loop, in groups that nothing waits for one by one, and TMA for its operands.

    Addresses stay in the warp's own registers: R2UR in the main loop, or an ELECT for each TMA instruction, are of a
    compiler that does not know a warp's number for one. No division: MUFU.
    """
    broken = []
    length, moved = sum(kernel.main_loop.values()), kernel.main_loop.get("R2UR", 0)
    if length > MOST_OF_A_STEP or moved:
        broken.append(f"{length} instructions in the main loop, {moved} of them R2UR; wanted {MOST_OF_A_STEP} and none")
    if (elections := kernel.opcodes.get("ELECT", 0)) > 1:
        broken.append(f"{elections} ELECT; wanted one, of the thread that fetches")
    if divisions := kernel.opcodes.get("MUFU", 0):
        broken.append(f"{divisions} MUFU: what is divided is divided by multiplying")
    if not kernel.main_loop.get("HGMMA"):
        broken.append(f"no HGMMA in the main loop {kernel.main_loop}")
    elif kernel.products >= 4 and 2 * kernel.commits > kernel.products:
        broken.append(f"{kernel.commits} of {kernel.products} wgmma are waited for one by one")
    if not kernel.opcodes.get("UTMALDG") or kernel.copies:
        broken.append(f"operands come by {kernel.copies or 'loads'}, not by TMA")
    return broken


def _small(kernel: Instantiation, most: int) -> list[str]:
    """So many instructions, and no division among them. On consumer chips 300 NOPs stand among those of float64."""
    divisions = kernel.opcodes.get("MUFU", 0)
    count = sum(kernel.opcodes.values()) - kernel.opcodes.get("NOP", 0)
    if count <= most and not divisions:
        return []
    return [f"{count} instructions, {divisions} of them MUFU; wanted at most {most} and none"]


def _wide(what: str, widths: dict[int, int], others: frozenset[int] | None) -> list[str]:
    if not widths.get(128) or (others is not None and not set(widths) <= {128} | others):
        beside = "" if others is None else f", and beside them only {sorted(others)}"
        return [f"{what} by width in bits {widths}; wanted 128{beside}"]
    return []
