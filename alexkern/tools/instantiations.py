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


@dataclass(frozen=True, kw_only=True)
class Instantiation(sass.Code):
    """operator is the folder of its source; kernel is demangled, without alexkern's namespaces and the parameters.

    Nothing is known of the block where launched is False; spilled is in bytes a thread, and static_shared the part of
    shared that ptxas says.
    """

    operator: str
    launched: bool
    spilled: int
    static_shared: int


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
    nested = 0  # of angle brackets: an argument of a template may have parentheses
    for index, letter in enumerate(name):
        nested += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and nested == 0:
            return name[:index]
    return name


def _instantiation(
    made: Object, name: str, assembled: Assembled, program: sass.Program, launch: Launch | None
) -> Instantiation:
    target, operator = int(made.target.rstrip("a")), made.source.parent.name
    x, y, z = launch.block if launch else (0, 0, 0)
    warps, shared = -(-x * y * z // 32), assembled.shared + (launch.shared if launch else 0)
    return Instantiation(
        operator=operator,
        kernel=name.replace(f"{operator}::", ""),
        target=target,
        launched=launch is not None,
        num_warps=warps,
        registers=assembled.registers,
        spilled=assembled.spilled,
        shared=shared,
        static_shared=assembled.shared,
        blocks=blocks_per_multiprocessor(target, assembled.registers, shared, warps) if warps else 0,
        **sass.counted(program),
    )
