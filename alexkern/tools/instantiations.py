"""What each instantiation of a CUDA C++ kernel became on a target: its machine code, and the block that runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from alexkern.backends.building import in_parallel
from alexkern.cost.model import blocks_per_multiprocessor
from alexkern.tools import sass
from alexkern.tools.objects import Assembled, Object
from alexkern.tools.rehearsal import Launch


@dataclass(frozen=True)
class Instantiation:
    """operator is the folder of its source; name is demangled, without alexkern's namespaces and the parameters.

    target is 80, 90 or 100; registers a thread; stack, local and spilled in bytes a thread; shared in bytes a block,
    static and dynamic; blocks of one multiprocessor. Nothing is known of the block where launched is False. opcodes and
    main_loop count instructions by name; products counts the main loop's tensor-core instructions, and commits those of
    them that end a group (wgmma). loads, stores and copies (global to shared) count accesses by width in bits.
    """

    operator: str
    name: str
    target: int
    launched: bool
    num_warps: int
    registers: int
    stack: int
    local: int
    spilled: int
    static_shared: int
    dynamic_shared: int
    blocks: int
    opcodes: dict[str, int]
    main_loop: dict[str, int]
    products: int
    commits: int
    loads: dict[int, int]
    stores: dict[int, int]
    copies: dict[int, int]

    @property
    def shared(self) -> int:
        return self.static_shared + self.dynamic_shared

    @property
    def tensor_memory(self) -> int:
        return 0


def instantiations(objects: Sequence[Object], launches: Sequence[Launch]) -> list[Instantiation]:
    """Those in the objects, in their order; launches say with how many threads and how much shared memory."""
    programs = in_parallel(lambda made: sass.parse_all(sass.listing(made.path)) if made.kernels else {}, objects)
    known = dict(zip(demangled([launch.kernel for launch in launches]), launches, strict=True))
    found = []
    for made, code in zip(objects, programs, strict=True):
        for (mangled, program), name in zip(code.items(), demangled(list(code)), strict=True):
            found.append(_instantiation(made, name, made.kernels[mangled], program, known.get(name)))
    return found


def demangled(names: Sequence[str]) -> list[str]:
    """C++ functions as one reads them, without result and parameters: "max_pool2d::strip_kernel<float, 4, true>"."""
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [_short(line) for line in done.stdout.splitlines()]


def _short(name: str) -> str:
    for noise in ("void ", "(anonymous namespace)::", "alexkern::", "ptx::"):
        name = name.replace(noise, "")
    depth = 0  # of angle brackets: an argument of a template may have parentheses
    for place, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:place]
    return name


def _instantiation(
    made: Object, name: str, assembled: Assembled, program: sass.Program, launch: Launch | None
) -> Instantiation:
    target, operator = int(made.target.rstrip("a")), made.source.parent.name
    loop = sass.main_loop(program.instructions)
    products = [step for step in loop if step.is_tensor_core]
    x, y, z = launch.block if launch else (0, 0, 0)
    warps, dynamic = -(-x * y * z // 32), launch.shared if launch else 0
    return Instantiation(
        operator=operator,
        name=name.replace(f"{operator}::", ""),
        target=target,
        launched=launch is not None,
        num_warps=warps,
        registers=assembled.registers,
        stack=program.stack,
        local=program.local,
        spilled=assembled.spilled,
        static_shared=assembled.shared,
        dynamic_shared=dynamic,
        blocks=blocks_per_multiprocessor(target, assembled.registers, assembled.shared + dynamic, warps)
        if warps
        else 0,
        opcodes=sass.count(program.instructions),
        main_loop=sass.count(loop),
        products=len(products),
        commits=sum("gsb0" in step.operands for step in products),
        loads=sass.accesses(program.instructions, "load"),
        stores=sass.accesses(program.instructions, "store"),
        copies=sass.accesses(program.instructions, "copy"),
    )
