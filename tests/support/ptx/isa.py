"""What each instruction does: the PTX ISA's words on it, for the lanes of a warp that execute it together.

A handler is a generator: it yields where the warp has to wait. One modifier that is not known here is a Fault.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .machine import GLOBAL, IN_FLIGHT, POISON, Machine, Mbarrier, Thread, Warp, as_float, as_word, check
from .text import Address, Immediate, Instruction, Number, Pair, Register, Sink, Special, Term, Vector


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


Steps = Iterator[None]


# ---- 9.7.9, 9.7.4: moves, addresses, selections


def mov(x: Execution) -> Steps:
    x.modifiers("u32")
    for frame in x.frames:
        frame.write(x.instruction.terms[0], frame.read(x.instruction.terms[1]))
    return
    yield


def mapa(x: Execution) -> Steps:
    x.modifiers("shared::cluster", "u32")
    target, address, rank = x.instruction.terms
    for frame in x.frames:
        _, offset = x.machine.shared_at(frame.thread, frame.read(address), 1)
        check(frame.read(rank) < len(x.machine.blocks), "mapa: no such block in the cluster")
        frame.write(target, (frame.read(rank) + 1) << 24 | frame.read(address))
    return
    yield


def setp(x: Execution) -> Steps:
    (comparison, _) = x.modifiers("eq|ne", "b32")
    target, a, b = x.instruction.terms
    for frame in x.frames:
        frame.write(target, (frame.read(a) == frame.read(b)) == (comparison == "eq"))
    return
    yield


def selp(x: Execution) -> Steps:
    x.modifiers("u32")
    target, a, b, predicate = x.instruction.terms
    for frame in x.frames:
        frame.write(target, frame.read(a) if frame.read(predicate) else frame.read(b))
    return
    yield


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


def cvt(x: Execution) -> Steps:
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
    return
    yield


# ---- 9.7.13.1 to 3: barriers of the block and of the cluster; 9.7.13.4: fences; 9.7.13.14: elect


def bar(x: Execution) -> Steps:
    (kind,) = x.modifiers("sync|arrive")
    x.whole_warp()
    number, count = x.one(0), x.one(1)
    check(0 <= number < 16 and count % 32 == 0, f"bar.{kind} {number}, {count}")
    state = x.warp.block.barriers.setdefault(number, [count, 0, 0])
    check(state[1] == 0 or state[0] == count, "bar: warps have other counts")
    state[0], state[1], phase = count, state[1] + 32, state[2]
    check(state[1] <= count, "bar: more threads than it counts")
    if state[1] == count:
        state[1:] = [0, phase + 1]
        x.machine.version += 1
    while kind == "sync" and state[2] == phase:
        yield


def barrier(x: Execution) -> Steps:
    _, kind, _, _ = x.modifiers("cluster", "arrive|wait", "relaxed|release|acquire", "aligned")
    x.whole_warp()
    machine = x.machine
    for frame in x.frames:
        thread = frame.thread
        if kind == "arrive":
            check("acquire" not in x.instruction.modifiers, x.instruction.name)
            check(thread.cluster_phase is None, "barrier.cluster.arrive: again, with no wait in between")
            thread.cluster_phase = machine.cluster_phase
            machine.cluster_arrived += 1
            for mbarrier in thread.block.mbarriers.values():
                mbarrier.announced |= mbarrier.fenced and mbarrier.owner is thread
        else:
            check("acquire" in x.instruction.modifiers, x.instruction.name)
            check(thread.cluster_phase is not None, "barrier.cluster.wait: with no arrival")
    if machine.cluster_arrived == machine.script.threads:
        machine.cluster_arrived = 0
        machine.cluster_phase += 1
        for block in machine.blocks:
            for mbarrier in block.mbarriers.values():
                mbarrier.for_cluster |= mbarrier.announced
    while kind == "wait" and machine.cluster_phase == x.frames[0].thread.cluster_phase:
        yield
    if kind == "wait":
        for frame in x.frames:
            frame.thread.cluster_phase = None


def fence(x: Execution) -> Steps:
    kind = x.instruction.modifiers
    for frame in x.frames:
        block = frame.thread.block
        if kind == ("mbarrier_init", "release", "cluster"):
            for mbarrier in block.mbarriers.values():
                if mbarrier.owner is frame.thread:
                    mbarrier.fenced = mbarrier.for_async = True
        elif kind in (("proxy", "async"), ("proxy", "async", "shared::cta"), ("proxy", "async", "shared::cluster")):
            block.view[:] = block.shared
            for mbarrier in block.mbarriers.values():
                mbarrier.for_async = True
        else:
            check(kind == ("proxy", "async", "global"), x.instruction.name)
    return
    yield


def elect(x: Execution) -> Steps:
    x.modifiers("sync")
    x.whole_warp()
    check(x.one(1) == 0xFFFFFFFF, "elect.sync: not of all lanes")
    pair = x.instruction.terms[0]
    assert isinstance(pair, Pair)
    for frame in x.frames:
        frame.write(pair.first, 0)
        frame.write(pair.second, frame.thread.lane == 0)
    return
    yield


# ---- 9.7.13.15: mbarrier


def mbarrier(x: Execution) -> Steps:
    handlers = {"init": mbarrier_init, "arrive": mbarrier_arrive, "try_wait": mbarrier_wait, "test_wait": mbarrier_wait}
    kind = x.instruction.modifiers[0]
    check(kind in handlers, x.instruction.name)
    yield from handlers[kind](x)


def mbarrier_init(x: Execution) -> Steps:
    x.modifiers("init", "?shared::cta|shared", "b64")
    for frame in x.frames:
        block, offset = x.machine.shared_at(frame.thread, x.address(frame, 0), 8)
        count = frame.read(x.instruction.terms[1])
        check(0 < count < 2**20 and offset not in block.mbarriers, "mbarrier.init: its count, or one is there already")
        block.mbarriers[offset] = Mbarrier(count, frame.thread, pending=count)
    return
    yield


def mbarrier_arrive(x: Execution) -> Steps:
    _, expect, space, _ = x.modifiers("arrive", "?expect_tx", "?shared::cta|shared|shared::cluster", "b64")
    cluster = space == "shared::cluster"
    sink, _, *count = x.instruction.terms
    check(isinstance(sink, Sink), "mbarrier.arrive: its state is taken")
    check(len(count) == 1 if expect else len(count) <= 1, f"{x.instruction.name}: its operands")
    for frame in x.frames:
        block, mbarrier = x.machine.mbarrier_at(frame.thread, x.address(frame, 1), cluster)
        check(block is frame.thread.block or mbarrier.for_cluster, "the cluster does not know the mbarrier")
        number = frame.read(count[0]) if count else 1
        if expect:
            mbarrier.update(1, number)
        else:
            mbarrier.update(number, 0)
        x.machine.version += 1
    return
    yield


def mbarrier_wait(x: Execution) -> Steps:
    """Says whether the phase has completed; try_wait may say no at any time, and does where it has not."""
    x.modifiers("try_wait|test_wait", "parity", "?shared::cta|shared", "b64")
    target, _, parity = x.instruction.terms
    complete = []
    for frame in x.frames:
        _, mbarrier = x.machine.mbarrier_at(frame.thread, x.address(frame, 1))
        check(frame.read(parity) in (0, 1), "a parity is 0 or 1")
        complete.append(mbarrier.phase & 1 != frame.read(parity))
        frame.write(target, complete[-1])
    if not all(complete):
        yield


# ---- 9.7.9.25: asynchronous copies


def cp(x: Execution) -> Steps:
    modifiers = x.instruction.modifiers
    if modifiers == ("async", "commit_group"):
        for frame in x.frames:
            frame.thread.copies.commit()
    elif modifiers == ("async", "wait_group"):
        for frame in x.frames:
            frame.thread.copies.wait(frame.read(x.instruction.terms[0]))
    elif modifiers == ("async", "bulk", "commit_group"):
        for frame in x.frames:
            frame.thread.stores.commit()
    elif modifiers in (("async", "bulk", "wait_group", "read"), ("async", "bulk", "wait_group")):
        for frame in x.frames:
            frame.thread.stores.wait(frame.read(x.instruction.terms[0]))
    elif modifiers[:3] == ("async", "bulk", "tensor"):
        bulk_tensor(x)
    else:
        copy_async(x)
    return
    yield


def copy_async(x: Execution) -> None:
    _, cache, _, _ = x.modifiers("async", "ca|cg", "shared|shared::cta", "global")
    _, _, size_term, *source_size = x.instruction.terms
    check(len(source_size) <= 1, x.instruction.name)
    machine = x.machine
    for frame in x.frames:
        size = frame.read(size_term)
        check(isinstance(size_term, Immediate) and size in ((16,) if cache == "cg" else (4, 8, 16)), f"cp-size {size}")
        taken = frame.read(source_size[0]) if source_size else size
        check(taken <= size, "src-size is more than cp-size")
        block, offset = machine.shared_at(frame.thread, x.address(frame, 0), size)
        source = x.address(frame, 1) - GLOBAL
        check(source % size == 0 and 0 <= source <= len(machine.memory) - size, "the source of cp.async")
        block.shared[offset : offset + size] = bytes([POISON] * size)

        def land(into: bytearray = block.shared, offset: int = offset, source: int = source, taken: int = taken) -> None:
            into[offset : offset + size] = machine.memory[source : source + taken] + bytes(size - taken)

        frame.thread.copies.open.effects.append(land)


def bulk_tensor(x: Execution) -> None:
    """9.7.9.25.5.2: dimensions in the instruction are the coordinates' count, and the map's."""
    dimensions = x.instruction.modifiers[3]
    store = "bulk_group" in x.instruction.modifiers
    if store:
        _, _, _, _, _, _, mode, _ = x.modifiers(
            "async", "bulk", "tensor", "3d|4d", "global", "shared::cta", "tile", "bulk_group"
        )
        multicast = ""
        tensor_term, source_term, *rest = x.instruction.terms
    else:
        *_, mode, _, multicast = x.modifiers(
            "async", "bulk", "tensor", "3d|4d", "shared::cluster|shared::cta", "global", "tile|im2col",
            "mbarrier::complete_tx::bytes", "?multicast::cluster",
        )  # fmt: skip
        _, tensor_term, _, *rest = x.instruction.terms
    check(len(rest) == (mode == "im2col") + bool(multicast), f"{x.instruction.name}: its operands")
    assert isinstance(tensor_term, Address)
    for frame in x.frames:
        tensor = frame.read(tensor_term.terms[0])
        vector = tensor_term.terms[1]
        assert isinstance(vector, Vector)
        corner = tuple(frame.read(term) for term in vector.terms)
        check(len(corner) == int(dimensions[0]) == len(tensor.sizes), f"{x.instruction.name}: coordinates")
        check((mode == "im2col") == (tensor.pixels > 0), f"{x.instruction.name}: the map is for another kind of copy")
        if store:
            check(min(corner) >= 0, "a store in front of the tensor")
            assert isinstance(source_term, Address)
            x.machine.store(frame.thread, frame.read(source_term.terms[0]), x.machine.box(tensor, corner))
            continue
        if mode == "im2col":
            assert isinstance(rest[0], Vector)
            places = x.machine.pixels(tensor, corner, tuple(frame.read(term) for term in rest[0].terms))
        else:
            places = x.machine.box(tensor, corner)
        ranks = frame.read(rest[-1]) if multicast else 0
        check(not multicast or ranks != 0, "a copy to no block at all")
        x.machine.load(frame.thread, x.address(frame, 0), places, x.address(frame, 2), ranks)


def prefetch(x: Execution) -> Steps:
    x.modifiers("tensormap")
    for frame in x.frames:
        check(hasattr(x.address(frame, 0), "swizzle"), "prefetch.tensormap: not of a tensor map")
    return
    yield


# ---- 9.7.19.5: setmaxnreg


def setmaxnreg(x: Execution) -> Steps:
    (kind, *_) = x.modifiers("inc|dec", "sync", "aligned", "u32")
    x.whole_warp()
    count, warp = x.one(0), x.warp
    check(24 <= count <= 256 and count % 8 == 0, f"setmaxnreg {count}")
    check(count >= warp.registers if kind == "inc" else count <= warp.registers, f"setmaxnreg.{kind} to {count}")
    others = [one for one in x.machine.warps if one.block is warp.block and one is not warp]
    at_launch = min(65536 // x.machine.script.block_threads // 8 * 8, 256)
    while sum(one.registers for one in others) + count > at_launch * (len(others) + 1):
        yield
    warp.registers = count


SIMPLE: dict[str, Callable[[Execution], Steps]] = {
    "mov": mov,
    "mapa": mapa,
    "setp": setp,
    "selp": selp,
    "cvt": cvt,
    "bar": bar,
    "barrier": barrier,
    "fence": fence,
    "elect": elect,
    "mbarrier": mbarrier,
    "cp": cp,
    "prefetch": prefetch,
    "setmaxnreg": setmaxnreg,
}
# What touches memory or orders accesses to it: the compiler has to know.
ORDERS_MEMORY = {"bar", "barrier", "fence", "mbarrier", "cp", "prefetch", "ldmatrix"}
