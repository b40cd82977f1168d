"""Barriers, fences, mbarriers (9.7.13), and what a warp shares out: setmaxnreg and elect."""

from __future__ import annotations

from .isa import Execution, Steps
from .machine import Mbarrier, check
from .text import Pair, Sink


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


def fence(x: Execution) -> None:
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


def elect(x: Execution) -> None:
    x.modifiers("sync")
    x.whole_warp()
    check(x.one(1) == 0xFFFFFFFF, "elect.sync: not of all lanes")
    pair = x.instruction.terms[0]
    assert isinstance(pair, Pair)
    for frame in x.frames:
        frame.write(pair.first, 0)
        frame.write(pair.second, frame.thread.lane == 0)


# ---- 9.7.13.15: mbarrier


def mbarrier(x: Execution) -> Steps | None:
    handlers = {"init": mbarrier_init, "arrive": mbarrier_arrive, "try_wait": mbarrier_wait, "test_wait": mbarrier_wait}
    kind = x.instruction.modifiers[0]
    check(kind in handlers, x.instruction.name)
    return handlers[kind](x)


def mbarrier_init(x: Execution) -> None:
    x.modifiers("init", "?shared::cta|shared", "b64")
    for frame in x.frames:
        block, offset = x.machine.shared_at(frame.thread, x.address(frame, 0), 8)
        count = frame.read(x.instruction.terms[1])
        check(0 < count < 2**20 and offset not in block.mbarriers, "mbarrier.init: its count, or one is there already")
        block.mbarriers[offset] = Mbarrier(count, frame.thread, pending=count)


def mbarrier_arrive(x: Execution) -> None:
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
