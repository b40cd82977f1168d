"""Copies that run on by themselves: cp.async and TMA (9.7.9.25)."""

from __future__ import annotations

from functools import partial

from .isa import Execution
from .machine import GLOBAL, POISON, Block, Machine, check
from .text import Address, Immediate, Vector


def cp(x: Execution) -> None:
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

        frame.thread.copies.open.effects.append(partial(land, machine, block, offset, size, source, taken))


def land(machine: Machine, block: Block, offset: int, size: int, source: int, taken: int) -> None:
    block.shared[offset : offset + size] = machine.memory[source : source + taken] + bytes(size - taken)


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


def prefetch(x: Execution) -> None:
    x.modifiers("tensormap")
    for frame in x.frames:
        check(hasattr(x.address(frame, 0), "swizzle"), "prefetch.tensormap: not of a tensor map")
