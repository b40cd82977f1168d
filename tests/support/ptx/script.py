"""Scripts: what each thread of a cluster does, one wrapper after another, with the operands of each; and how they go
to csrc/emulator/tests/script.cu and their outcome comes back."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

OPERANDS, RESULTS, REGISTERS = 10, 4, 128
SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}  # bytes of a row: the number that the emulator's file has


@dataclass(frozen=True)
class TensorMap:
    """Of 16-bit elements from the start of global memory, for boxes, or, with `pixels`, for im2col.

    Sizes are innermost first, strides in bytes and without the first; corners and steps are of W and H."""

    swizzle: int  # bytes of a row; 0 for none
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...] = ()
    lower: tuple[int, int] = (0, 0)
    upper: tuple[int, int] = (0, 0)
    channels: int = 0
    pixels: int = 0
    steps: tuple[int, int] = (1, 1)

    def words(self) -> list[int]:
        kind = [len(self.sizes), SWIZZLES[self.swizzle], *self.sizes, *self.strides]
        if self.box:
            kind += self.box
        else:
            kind += [*self.lower, *self.upper, self.channels, self.pixels, *self.steps]
        return [word & 0xFFFFFFFF for word in kind + [0] * (17 - len(kind))]


@dataclass
class Script:
    name: str
    block_threads: int = 32
    blocks: int = 1
    shared_bytes: int = 1024
    global_memory: bytes = bytes(16)
    maps: list[TensorMap] = field(default_factory=list)
    steps: list[tuple[str, dict[int, tuple[int, ...]]]] = field(default_factory=list)

    @property
    def threads(self) -> int:
        return self.block_threads * self.blocks

    def step(self, wrapper: str, *operands: int, of: Iterable[int] | None = None) -> None:
        """The same for all threads, or for those of `of`; threads of a cluster are numbered block after block."""
        self.steps.append((wrapper, {thread: operands for thread in (range(self.threads) if of is None else of)}))

    def each(self, wrapper: str, operands: Callable[[int], tuple[int, ...]], of: Iterable[int] | None = None) -> None:
        chosen = range(self.threads) if of is None else of
        self.steps.append((wrapper, {thread: operands(thread) for thread in chosen}))

    def pack(self, numbers: dict[str, int]) -> bytes:
        header = (self.block_threads, self.blocks, self.shared_bytes, len(self.global_memory), len(self.maps))
        parts = [struct.pack("<6I", *header, len(self.steps))]
        parts += [struct.pack("<17I", *one.words()) for one in self.maps]
        parts.append(self.global_memory)
        for wrapper, threads in self.steps:
            words = [numbers[wrapper]]
            for thread in range(self.threads):
                given = [operand & 0xFFFFFFFF for operand in threads.get(thread, ())]
                words += [int(thread in threads), *given, *[0] * (OPERANDS - len(given))]
            parts.append(struct.pack(f"<{len(words)}I", *words))
        return b"".join(parts)


@dataclass
class Outcome:
    """Of a script: what each step returned to each thread, the registers that wgmma accumulates in, and memory."""

    results: list[list[tuple[int, ...]]]
    sums: list[tuple[float, ...]]
    shared: list[bytes]
    global_memory: bytes

    def difference(self, other: Outcome, script: Script) -> str:
        """The first, in words; empty where there is none. Which lane is elected is not specified: how many are is."""
        for number, (step, mine, theirs) in enumerate(zip(script.steps, self.results, other.results, strict=True)):
            for thread in step[1]:
                if step[0] == "elect_one":
                    warp = slice(thread // 32 * 32, thread // 32 * 32 + 32)
                    if sorted(mine[warp]) != sorted(theirs[warp]):
                        return f"step {number}, elect_one: {mine[warp]} and not {theirs[warp]}"
                elif mine[thread] != theirs[thread]:
                    return f"step {number}, {step[0]}, thread {thread}: {mine[thread]} and not {theirs[thread]}"
        for thread, (one, another) in enumerate(zip(self.sums, other.sums, strict=True)):
            if one != another:
                register = next(i for i, pair in enumerate(zip(one, another, strict=True)) if pair[0] != pair[1])
                return f"register {register} of thread {thread}: {one[register]} and not {another[register]}"
        memories = [*zip(self.shared, other.shared, strict=True), (self.global_memory, other.global_memory)]
        opaque = {  # what an mbarrier consists of
            (thread // script.block_threads, operands[0] + byte)
            for wrapper, threads in script.steps
            if wrapper == "mbarrier_init"
            for thread, operands in threads.items()
            for byte in range(8)
        }
        for number, (ours, others) in enumerate(memories):
            for byte in (i for i in range(len(ours)) if ours[i] != others[i] and (number, i) not in opaque):
                place = "global memory" if number == len(self.shared) else f"shared memory of block {number}"
                return f"byte {byte} of {place}: {ours[byte]} and not {others[byte]}"
        return ""


def on_the_emulator(program: Path, scripts: list[Script], scratch: Path) -> list[Outcome]:
    """What csrc/emulator/tests/script.cu makes of them, copies and products as late as they can be."""
    listed = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split("\n")
    numbers = {name: number for number, name in enumerate(listed) if name}
    given, results = scratch / "scripts", scratch / "results"
    given.write_bytes(b"".join(script.pack(numbers) for script in scripts))
    environment = {"EMULATOR_SEED": "0", "EMULATOR_DELIVERY": "late", "EMULATOR_PRODUCTS": "late"}
    done = subprocess.run([program, given, results], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    data, at, outcomes = results.read_bytes(), 0, []

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return data[at - size : at]

    for script in scripts:
        per_step = []
        for _ in script.steps:
            words = struct.unpack(f"<{script.threads * RESULTS}I", take(script.threads * RESULTS * 4))
            per_step.append([words[i : i + RESULTS] for i in range(0, len(words), RESULTS)])
        sums = [struct.unpack(f"<{REGISTERS}f", take(REGISTERS * 4)) for _ in range(script.threads)]
        shared = [take(script.shared_bytes) for _ in range(script.blocks)]
        outcomes.append(Outcome(per_step, sums, shared, take(len(script.global_memory))))
    assert at == len(data)
    return outcomes
