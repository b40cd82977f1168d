"""What an instruction does, for the lanes of a warp that execute it together; here those that only compute.

A handler that has to wait is a generator, which yields where it waits. One modifier that is not known here is a Fault.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .machine import IN_FLIGHT, Machine, Thread, Warp, as_float, as_word, check
from .text import Address, Immediate, Instruction, Number, Register, Sink, Special, Term


@dataclass
class Frame:
    """Of one thread that executes a piece of inline assembly: its operands by number, and declared registers."""

    thread: Thread
    values: list[Any]  # None: nothing has written it
    places: list[int | None]  # of those that wgmma accumulates in, in the thread's sums
    registers: dict[str, Any]

    def read(self, term: Term) -> Any:
        if isinstance(term, Immediate):
            return term.value
        if isinstance(term, Special):
            check(term.name == "cluster_ctarank", f"%{term.name}")
            return self.thread.block.rank
        assert isinstance(term, Number | Register), term
        value = self.values[term.index] if isinstance(term, Number) else self.registers.get(term.name)
        check(value is not None and value is not IN_FLIGHT, f"{term} is read, and nothing has written it")
        return value

    def write(self, term: Term, value: Any) -> None:
        if isinstance(term, Number):
            self.values[term.index] = value
        elif isinstance(term, Register):
            self.registers[term.name] = value
        else:
            check(isinstance(term, Sink), f"{term} is written to")


@dataclass
class Execution:
    machine: Machine
    warp: Warp
    instruction: Instruction
    frames: list[Frame]  # of the lanes that execute it, in order

    def one(self, at: int) -> Any:
        """An operand that has to be the same in all lanes."""
        values = {frame.read(self.instruction.terms[at]) for frame in self.frames}
        check(len(values) == 1, f"{self.instruction.name}: lanes have other operands")
        return values.pop()

    def whole_warp(self) -> None:
        check(len(self.frames) == 32, f"{self.instruction.name} by {len(self.frames)} lanes of a warp")

    def address(self, frame: Frame, at: int) -> int:
        term = self.instruction.terms[at]
        assert isinstance(term, Address) and len(term.terms) == 1, term
        return frame.read(term.terms[0])

    def modifiers(self, *known: str) -> tuple[str, ...]:
        """All of the instruction's, of which each group of alternatives ("ca|cg", "?trans") has one, in this order."""
        left, chosen = list(self.instruction.modifiers), []
        for group in known:
            optional = group.startswith("?")
            if left and left[0] in group.removeprefix("?").split("|"):
                chosen.append(left.pop(0))
            else:
                check(optional, f"{self.instruction.name}: {group} is wanted")
                chosen.append("")
        check(not left, f"{self.instruction.name}: .{'.'.join(left)}")
        return tuple(chosen)


Steps = Iterator[None]  # of a handler that may have to wait


# ---- 9.7.9, 9.7.4: moves, addresses, selections


def mov(x: Execution) -> None:
    x.modifiers("u32")
    for frame in x.frames:
        frame.write(x.instruction.terms[0], frame.read(x.instruction.terms[1]))


def mapa(x: Execution) -> None:
    x.modifiers("shared::cluster", "u32")
    target, address, rank = x.instruction.terms
    for frame in x.frames:
        _, offset = x.machine.shared_at(frame.thread, frame.read(address), 1)
        check(frame.read(rank) < len(x.machine.blocks), "mapa: no such block in the cluster")
        frame.write(target, (frame.read(rank) + 1) << 24 | frame.read(address))


def setp(x: Execution) -> None:
    (comparison, _) = x.modifiers("eq|ne", "b32")
    target, a, b = x.instruction.terms
    for frame in x.frames:
        frame.write(target, (frame.read(a) == frame.read(b)) == (comparison == "eq"))


def selp(x: Execution) -> None:
    x.modifiers("u32")
    target, a, b, predicate = x.instruction.terms
    for frame in x.frames:
        frame.write(target, frame.read(a) if frame.read(predicate) else frame.read(b))


# ---- 9.7.9.22: cvt. Digits after the first, the lowest exponent, and how the bits are had

FORMATS: dict[str, tuple[int, int, Callable[[float], int]]] = {
    "f16": (10, -14, lambda value: 0x7FFF if value != value else struct.unpack("<H", struct.pack("<e", value))[0]),
    "bf16": (7, -126, lambda value: 0x7FFF if value != value else as_word(value) >> 16),
    "tf32": (10, -126, lambda value: 0x7FFFFFFF if value != value else as_word(value)),
}
LARGEST = {"f16": 65504.0, "bf16": as_float(0x7F7F0000), "tf32": as_float(0x7F7FE000)}


def rounded(value: float, form: str, mode: str) -> int:
    digits, lowest, bits = FORMATS[form]
    if value != 0 and math.isfinite(value):
        unit = math.ldexp(1.0, max(math.frexp(value)[1] - 1, lowest) - digits)
        scaled = value / unit
        whole = {
            "rn": lambda: float(round(scaled)),
            "rz": lambda: float(math.trunc(scaled)),
            "rna": lambda: math.copysign(math.floor(abs(scaled) + 0.5), scaled),
        }[mode]()
        value = math.copysign(whole * unit, value)
        if abs(value) > LARGEST[form]:
            value = math.copysign(LARGEST[form] if mode == "rz" else math.inf, value)
    return bits(value)


def cvt(x: Execution) -> None:
    if x.instruction.modifiers == ("f32", "f16"):
        target, source = x.instruction.terms
        for frame in x.frames:
            frame.write(target, struct.unpack("<e", struct.pack("<H", frame.read(source)))[0])
        return
    mode, form, _ = x.modifiers("rn|rz|rna", "f16|bf16|tf32|f16x2|bf16x2", "f32")
    target, *sources = x.instruction.terms
    check(len(sources) == (2 if form.endswith("x2") else 1), f"{x.instruction.name}: {len(sources)} sources")
    check((mode == "rna") == (form == "tf32"), f"{x.instruction.name}: no such rounding")
    for frame in x.frames:
        bits = 0
        for source in sources:  # of two the first goes to the upper half
            bits = bits << 16 | rounded(frame.read(source), form.removesuffix("x2"), mode)
        frame.write(target, bits)
