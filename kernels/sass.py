"""Machine code of a compiled kernel, read as data: resources, instructions, the main loop, widths of memory accesses.

cuobjdump and nvdisasm come inside the triton package; no GPU and no CUDA toolkit is needed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;", re.MULTILINE)
ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")
TENSOR_CORE = re.compile(r"(HMMA|HGMMA|UTC\w*MMA|IMMA|QGMMA)(\.|$)")
WIDTHS = {"U8": 8, "S8": 8, "U16": 16, "S16": 16, "64": 64, "128": 128, "256": 256}
GLOBAL = {"LDG": "load", "LD": "load", "STG": "store", "ST": "store", "LDGSTS": "copy"}
ATOMICS = ("ATOM", "ATOMG", "RED", "REDG", "UTMAREDG", "UREDGR")


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str  # with its suffixes: HGMMA.64x128x16.F32.BF16
    operands: str

    @property
    def root(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def is_tensor_core(self) -> bool:
        return TENSOR_CORE.match(self.opcode) is not None


@dataclass(frozen=True)
class Program:
    """registers a thread; stack and local memory in bytes a thread."""

    registers: int
    stack: int
    local: int
    instructions: tuple[Instruction, ...]


def disassemble(cubin: bytes) -> Program:
    """What cuobjdump makes of a cubin."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-sass", "-res-usage", file.name]
        return parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def parse(text: str) -> Program:
    """cuobjdump's listing of one kernel.

    Raises:
        ValueError: it lists no function or several; a kernel that calls functions has no one main loop to look at.
    """
    functions = FUNCTION.findall(text)
    resources = RESOURCES.search(text)
    if len(functions) != 1 or resources is None:
        raise ValueError(f"disassembly: wanted one function and its resources, got {functions or 'no function'}")
    registers, stack, local = map(int, resources.groups())
    listed = INSTRUCTION.findall(text)
    instructions = tuple(Instruction(int(address, 16), opcode, operands) for address, opcode, operands in listed)
    return Program(registers, stack, local, instructions)


def loops(instructions: Sequence[Instruction]) -> list[tuple[Instruction, ...]]:
    """The bodies of all loops: from a backward branch's target to the branch."""
    found = []
    for last, branch in enumerate(instructions):
        addresses = ADDRESS.findall(branch.operands)
        if branch.root != "BRA" or not addresses or int(addresses[-1], 16) >= branch.address:
            continue
        start = int(addresses[-1], 16)
        found.append(tuple(step for step in instructions[: last + 1] if step.address >= start))
    return found


def main_loop(instructions: Sequence[Instruction]) -> tuple[Instruction, ...]:
    """The innermost loop with the most tensor-core instructions or, where there are none, the most FFMA.

    A kernel without a loop gives (). So does one whose loops only wait.
    """

    def work(body: Iterable[Instruction]) -> tuple[int, int, int]:
        steps = tuple(body)
        products = sum(step.is_tensor_core for step in steps)
        # Of nested loops with equal work, the shorter one is inside.
        return products, sum(step.root == "FFMA" for step in steps), -len(steps)

    bodies = [body for body in loops(instructions) if any(step.root in GLOBAL or step.is_tensor_core for step in body)]
    return max(bodies, key=work, default=())


def count(instructions: Iterable[Instruction]) -> dict[str, int]:
    """How often each opcode occurs, without suffixes, the most frequent first."""
    return dict(Counter(step.root for step in instructions).most_common())


def accesses(instructions: Iterable[Instruction], kind: str) -> dict[int, int]:
    """How many global accesses there are of each width in bits. kind: "load", "store" or "copy" (into shared)."""
    widths = Counter(width(step) for step in instructions if GLOBAL.get(step.root) == kind)
    return dict(sorted(widths.items()))


def width(step: Instruction) -> int:
    """The width in bits of one thread's memory access."""
    return next((WIDTHS[suffix] for suffix in step.opcode.split(".")[1:] if suffix in WIDTHS), 32)
