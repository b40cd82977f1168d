"""A cluster of blocks as the PTX ISA describes it, with everything that runs on by itself as late as it may be.

Section numbers are those of the PTX ISA 9.1. Nothing is taken from the emulator.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .script import REGISTERS, RESULTS, Outcome, Script, TensorMap

POISON = 0xFF
IN_FLIGHT = object()  # in registers that a product accumulates in
SHARED, RANK_SHIFT = 0x4000, 24  # where shared memory begins; a mapped address has the block's rank, from 1, above
GLOBAL = 0x7000_0000_0000


class Fault(Exception):
    """What the PTX ISA forbids, or calls undefined."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Fault(what)


@dataclass
class Mbarrier:  # 9.7.13.15
    expected: int
    owner: Thread
    pending: int = 0
    phase: int = 0
    bytes: int = 0
    fenced: bool = False  # by its owner
    for_async: bool = False  # the async proxy knows it
    announced: bool = False  # its owner came to the cluster's barrier behind the fence
    for_cluster: bool = False

    def update(self, arrivals: int, bytes: int) -> None:
        check(self.pending >= arrivals, "more arrivals than the mbarrier counts")
        self.pending -= arrivals
        self.bytes += bytes
        check(abs(self.bytes) < 2**20, "more bytes than a phase counts")
        if self.pending == 0 and self.bytes == 0:
            self.phase += 1
            self.pending = self.expected


@dataclass
class Block:
    rank: int
    shared: bytearray
    view: bytearray  # as the async proxy sees it
    mbarriers: dict[int, Mbarrier] = field(default_factory=dict)  # by offset
    barriers: dict[int, list[int]] = field(default_factory=dict)  # named: count, arrived, phase


@dataclass
class Group:
    """Of asynchronous operations of a thread, or of a warp: what is still to be done when they complete."""

    effects: list[Callable[[], None]] = field(default_factory=list)


@dataclass
class Groups:
    open: Group = field(default_factory=Group)
    closed: list[Group] = field(default_factory=list)

    def commit(self) -> None:
        self.closed.append(self.open)
        self.open = Group()

    def wait(self, newest_pending: int) -> None:
        while len(self.closed) > newest_pending:
            for effect in self.closed.pop(0).effects:
                effect()

    @property
    def in_flight(self) -> bool:
        return bool(self.closed or self.open.effects)


@dataclass
class Thread:
    number: int  # in the cluster
    lane: int
    block: Block
    warp: Warp
    copies: Groups = field(default_factory=Groups)  # cp.async
    stores: Groups = field(default_factory=Groups)  # cp.async.bulk, of which .read waits for the reading
    sums: list[Any] = field(default_factory=lambda: [0.0] * REGISTERS)
    result: list[int] = field(default_factory=lambda: [0] * RESULTS)
    cluster_phase: int | None = None  # that it has arrived for


@dataclass
class Warp:
    index: int  # in its block
    block: Block
    threads: list[Thread] = field(default_factory=list)
    products: Groups = field(default_factory=Groups)  # wgmma
    fenced: bool = False  # by wgmma.fence
    registers: int = 0


class Machine:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.memory = bytearray(script.global_memory)
        self.blocks = [
            Block(rank, bytearray([POISON] * script.shared_bytes), bytearray([POISON] * script.shared_bytes))
            for rank in range(script.blocks)
        ]
        self.warps: list[Warp] = []
        self.threads: list[Thread] = []
        for number in range(script.threads):
            block, index = self.blocks[number // script.block_threads], number % script.block_threads
            if index % 32 == 0:
                self.warps.append(Warp(index // 32, block))
                self.warps[-1].registers = min(65536 // script.block_threads // 8 * 8, 256)
            self.threads.append(Thread(number, index % 32, block, self.warps[-1]))
            self.warps[-1].threads.append(self.threads[-1])
        self.loads: list[Callable[[], None]] = []  # TMA's, in flight
        self.writes: list[Callable[[], None]] = []  # of TMA's stores, which nobody waits for
        self.cluster_arrived = self.cluster_phase = 0
        self.version = 0  # whether anything moves

    # ---- addresses

    def shared_at(self, thread: Thread, address: int, size: int, cluster: bool = False) -> tuple[Block, int]:
        rank, offset = address >> RANK_SHIFT, (address & ((1 << RANK_SHIFT) - 1)) - SHARED
        check(cluster or rank == 0, f"{address:#x} is not of its own block's shared memory")
        check(rank <= len(self.blocks), f"{address:#x} is of a block that is not there")
        block = thread.block if rank == 0 else self.blocks[rank - 1]
        check(0 <= offset <= len(block.shared) - size, f"{address:#x} is outside of shared memory")
        check(offset % min(size, 16) == 0, f"{address:#x} is not aligned")
        return block, offset

    def mbarrier_at(self, thread: Thread, address: int, cluster: bool = False) -> tuple[Block, Mbarrier]:
        block, offset = self.shared_at(thread, address, 8, cluster)
        check(offset in block.mbarriers, f"no mbarrier at byte {offset}")
        return block, block.mbarriers[offset]

    def async_read(self, block: Block, offset: int, size: int) -> bytes:
        """Of shared memory through the async proxy (8.5): what was written by ordinary means wants a fence."""
        found = bytes(block.shared[offset : offset + size])
        check(found == block.view[offset : offset + size], "the async proxy reads what no fence has shown it")
        return found

    def async_write(self, block: Block, offset: int, data: bytes) -> None:
        block.shared[offset : offset + len(data)] = block.view[offset : offset + len(data)] = data

    # ---- tensors (5.5)

    def box(self, tensor: TensorMap, corner: tuple[int, ...]) -> list[tuple[int, int | None]]:
        """Of each element of the box its place in shared memory, and in global memory where it exists."""
        places = []
        inner, *outer = tensor.box
        for row in range(outer[0] * outer[1]):
            at = (corner[1] + row % outer[0], corner[2] + row // outer[0])
            for i in range(inner):
                places.append((swizzled(tensor, row, 2 * i), element(tensor, (corner[0] + i, *at))))
        return places

    def pixels(
        self, tensor: TensorMap, corner: tuple[int, ...], offsets: tuple[int, ...]
    ) -> list[tuple[int, int | None]]:
        """Im2col (5.5.4): bases run through the bounding box, W first, in steps; each reads at its offset."""
        places = []
        c, w, h, n = corner
        last = [tensor.sizes[1 + i] - 1 + tensor.upper[i] for i in range(2)]
        for base, low, high, step in zip((w, h), tensor.lower, last, tensor.steps, strict=True):
            check(low <= base <= high and (base - low) % step == 0, f"base {base} outside of the box {low} to {high}")
        for pixel in range(tensor.pixels):
            for i in range(tensor.channels):
                at = (c + i, w + offsets[0], h + offsets[1], n)
                places.append((swizzled(tensor, pixel, 2 * i), element(tensor, at)))
            w += tensor.steps[0]
            if w > last[0]:
                w, h = tensor.lower[0], h + tensor.steps[1]
            if h > last[1]:
                h, n = tensor.lower[1], n + 1
        return places

    def load(
        self, thread: Thread, address: int, places: list[tuple[int, int | None]], barrier: int, ranks: int
    ) -> None:
        """Into the blocks of `ranks`, a set, at the same offsets; 0: into the block that the addresses are of."""
        own, offset = self.shared_at(thread, address, 16, cluster=True)
        check(offset % 128 == 0, "the destination of a bulk copy is not aligned to 128")
        signalled, _ = self.mbarrier_at(thread, barrier, cluster=True)
        check(signalled is own, "the mbarrier is not where the copy goes")
        for rank in range(16):
            if ranks >> rank & 1 or (ranks == 0 and rank == own.rank):
                check(rank < len(self.blocks), f"no block {rank} in the cluster")
                self.load_into(thread, self.blocks[rank], offset, places, barrier)

    def load_into(
        self, thread: Thread, block: Block, offset: int, places: list[tuple[int, int | None]], barrier: int
    ) -> None:
        mbarrier = block.mbarriers[(barrier & ((1 << RANK_SHIFT) - 1)) - SHARED]
        check(mbarrier.for_async, "the async proxy does not know the mbarrier")
        check(block is thread.block or mbarrier.for_cluster, "the cluster does not know the mbarrier")
        for place, _ in places:
            self.async_write(block, offset + place, bytes([POISON] * 2))

        def land() -> None:
            for place, source in places:
                data = bytes(2) if source is None else self.memory[source : source + 2]
                self.async_write(block, offset + place, bytes(data))
            mbarrier.update(0, -2 * len(places))

        self.loads.append(land)

    def store(self, thread: Thread, address: int, places: list[tuple[int, int | None]]) -> None:
        block, offset = self.shared_at(thread, address, 16)
        check(offset % 128 == 0, "the source of a bulk copy is not aligned to 128")

        def read() -> None:
            data = [(into, self.async_read(block, offset + place, 2)) for place, into in places if into is not None]

            def write() -> None:
                for into, value in data:
                    self.memory[into : into + 2] = value

            self.writes.append(write)

        thread.stores.open.effects.append(read)

    # ---- from the start to the end

    def run(self, perform: Callable[[Machine, Warp, str, dict[int, tuple[int, ...]]], Any]) -> Outcome:
        """`perform` is a generator of one step of one warp: it yields where the warp cannot go on."""
        results = [[(0,) * RESULTS] * self.script.threads for _ in self.script.steps]

        def whole(warp: Warp) -> Any:
            for number, (wrapper, threads) in enumerate(self.script.steps):
                active = {thread.lane: threads[thread.number] for thread in warp.threads if thread.number in threads}
                if not active:
                    continue
                for lane in active:
                    warp.threads[lane].result = [0] * RESULTS
                yield from perform(self, warp, wrapper, active)
                self.version += 1
                for lane in active:
                    results[number][warp.threads[lane].number] = tuple(warp.threads[lane].result)

        running = [whole(warp) for warp in self.warps]
        while running:
            before, count = self.version, len(running)
            running = [one for one in running if next(one, "returned") != "returned"]
            if self.version == before and len(running) == count:
                check(bool(self.loads), "deadlock")
                self.loads.pop(0)()
        check(not self.loads, "returns with bulk loads in flight")
        for thread in self.threads:
            check(not thread.stores.in_flight, "returns with bulk stores that nobody waits for")
        for warp in self.warps:
            check(not warp.products.in_flight, "returns with products that nobody waits for")
        for write in self.writes:
            write()
        sums = [tuple(thread.sums) for thread in self.threads]
        return Outcome(results, sums, [bytes(block.shared) for block in self.blocks], bytes(self.memory))


def element(tensor: TensorMap, at: tuple[int, ...]) -> int | None:
    """Its byte in global memory, None outside of the tensor."""
    if not all(0 <= place < size for place, size in zip(at, tensor.sizes, strict=True)):
        return None
    return sum(place * stride for place, stride in zip(at, (2, *tensor.strides), strict=True))


def swizzled(tensor: TensorMap, row: int, byte: int) -> int:
    """Where a byte of a row lies (5.5.5), from a start that is aligned to eight rows."""
    inner = 2 * (tensor.box[0] if tensor.box else tensor.channels)
    address = row * inner + byte
    return address ^ ((address >> 7) % (tensor.swizzle // 16) << 4) if tensor.swizzle else address


def as_float(word: int) -> float:
    return struct.unpack("<f", struct.pack("<I", word & 0xFFFFFFFF))[0]


def as_word(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]
