"""Machine code of a compiled kernel, read as data: resources, instructions, the main loop, widths of memory accesses.

cuobjdump and nvdisasm come inside the triton package; no GPU and no CUDA toolkit is needed. What nvcc compiled is read
by the same, or by the toolkit's own where there is no triton.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FUNCTION = re.compile(r"^\s*Function : (\S+)$", re.MULTILINE)
RESOURCES = re.compile(r"^\s*Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", re.MULTILINE)
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


@dataclass(frozen=True, kw_only=True)
class Code:
    """What a kernel became on a target, whichever language it is written in.

    target is one of cost.chips.LIMITS, 80 for sm_80; registers a thread; stack and local in bytes a thread; shared,
    static and dynamic, in bytes and tensor_memory in columns a block; blocks of one multiprocessor. opcodes and
    main_loop count instructions by name; products counts the main loop's tensor-core instructions, and commits those of
    them that end a group (wgmma). loads, stores and copies (global to shared) count accesses by width in bits.
    """

    target: int
    kernel: str
    num_warps: int
    registers: int
    stack: int
    local: int
    shared: int
    tensor_memory: int = 0
    blocks: int
    opcodes: dict[str, int]
    main_loop: dict[str, int]
    products: int
    commits: int
    loads: dict[int, int]
    stores: dict[int, int]
    copies: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class Launched(Code):
    """What is compiled for one launch; tile names its block sizes, warps and stages where its language has them."""

    grid: tuple[int, ...]
    tile: str = ""


def counted(program: Program) -> dict[str, Any]:
    """Of Code's fields those that are read off the machine code."""
    steps, loop = program.instructions, main_loop(program.instructions)
    products = [step for step in loop if step.is_tensor_core]
    return {
        "stack": program.stack,
        "local": program.local,
        "opcodes": count(steps),
        "main_loop": count(loop),
        "products": len(products),
        "commits": sum("gsb0" in step.operands for step in products),
        "loads": accesses(steps, "load"),
        "stores": accesses(steps, "store"),
        "copies": accesses(steps, "copy"),
    }


def cuobjdump() -> str:
    """The tool that disassembles: the triton package's, else that on PATH or beside the nvcc there.

    Raises:
        RuntimeError: there is none.
    """
    if importlib.util.find_spec("triton") is not None:
        from triton import knobs

        return str(knobs.nvidia.cuobjdump.path)
    compiler = shutil.which("nvcc")
    beside = [str(Path(compiler).resolve().parent)] if compiler else []
    found = shutil.which("cuobjdump", path=os.pathsep.join([os.environ.get("PATH", os.defpath), *beside]))
    if found is None:
        raise RuntimeError("alexkern: cuobjdump was not found: install triton, or put the CUDA toolkit's on PATH")
    return found


def disassemble(cubin: bytes) -> Program:
    """What cuobjdump makes of a cubin of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return parse(listing(Path(file.name)))


def listing(path: Path) -> str:
    """cuobjdump's text for a cubin, or for an object that has one in it."""
    command = [cuobjdump(), "-sass", "-res-usage", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def parse(text: str) -> Program:
    """cuobjdump's listing of one kernel.

    Raises:
        ValueError: it lists no function or several; a kernel that calls functions has no one main loop to look at.
    """
    programs = parse_all(text)
    if len(programs) != 1:
        raise ValueError(f"disassembly: wanted one function and its resources, got {list(programs) or 'no function'}")
    return next(iter(programs.values()))


def parse_all(text: str) -> dict[str, Program]:
    """cuobjdump's listing of any number of kernels, by their mangled names.

    Raises:
        ValueError: of a function only the code or only the resources are listed, or its code twice.
    """
    resources = {
        name: (int(registers), int(stack), int(local)) for name, registers, stack, local in RESOURCES.findall(text)
    }
    _, *parts = FUNCTION.split(text)  # name, code, name, code, ...
    codes = dict(zip(parts[::2], parts[1::2], strict=True))
    if len(codes) < len(parts) // 2:
        raise ValueError(f"disassembly: a function is listed twice: {parts[::2]}")
    if codes.keys() != resources.keys():
        raise ValueError(f"disassembly: code of {sorted(codes)}, but resources of {sorted(resources)}")
    return {name: Program(*resources[name], _instructions(code)) for name, code in codes.items()}


def _instructions(code: str) -> tuple[Instruction, ...]:
    listed = INSTRUCTION.findall(code)
    return tuple(Instruction(int(address, 16), opcode, operands) for address, opcode, operands in listed)


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
