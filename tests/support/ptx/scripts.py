"""The scripts by which every wrapper is tried: small ones, each about what a wrapper or two do."""

from __future__ import annotations

import random
import struct

from .machine import as_word
from .script import Script, TensorMap

WGMMA_N = (64, 96, 128, 192, 256)
BARS = 8  # bytes of an mbarrier


def halves(count: int, draw: random.Random, element: str = "bits") -> bytes:
    """16-bit values: any bits, or whole numbers of -3 to 3 in fp16 or bf16, whose sums are exact."""
    if element == "bits":
        return draw.randbytes(2 * count)
    values = [float(draw.randrange(-3, 4)) for _ in range(count)]
    if element == "float16":
        return struct.pack(f"<{count}e", *values)
    return struct.pack(f"<{count}H", *[as_word(value) >> 16 for value in values])


def store_bytes(script: Script, data: bytes, block: int = 0, first: int = 0) -> None:
    """By ordinary means, a word after the other, by the threads of a block in turn."""
    words = struct.unpack(f"<{len(data) // 4}I", data)
    for start in range(0, len(words), script.block_threads):
        here = words[start : start + script.block_threads]
        threads = range(block * script.block_threads, block * script.block_threads + len(here))
        script.each(
            "store", lambda t, s=start, h=here, b=threads.start: (first + 4 * (s + t - b), h[t - b]), of=threads
        )


def load_all(script: Script, words: int, first: int = 0) -> None:
    for start in range(0, words, script.block_threads):
        script.each("load", lambda t, s=start: (first + 4 * ((s + t % script.block_threads) % words),))


def ldmatrix(draw: random.Random) -> list[Script]:
    script = Script("ldmatrix", shared_bytes=1024)
    store_bytes(script, halves(512, draw))
    script.step("syncthreads")
    for count in (1, 2, 4):
        for trans in ("", "_trans"):
            rows = [16 * draw.randrange(64) for _ in range(32)]
            script.each(f"ldmatrix_x{count}{trans}", lambda t, rows=rows: (rows[t],))
    return [script]


def stmatrix(draw: random.Random) -> list[Script]:
    """32 rows, each in a place of its own among 48."""
    script = Script("stmatrix", shared_bytes=16 * 48)
    store_bytes(script, bytes([0xEE] * 16 * 48))
    script.step("syncthreads")
    rows, words = draw.sample(range(48), 32), [draw.getrandbits(32) for _ in range(4 * 32)]
    script.each("stmatrix_x4", lambda t: (16 * rows[t], *words[4 * t : 4 * t + 4]))
    script.step("syncthreads")
    load_all(script, 4 * 48)
    return [script]


def mma(draw: random.Random) -> list[Script]:
    script = Script("mma")
    for name, element in (("m16n8k16", "float16"), ("m16n8k16", "bfloat16"), ("m16n8k8_tf32", "")):
        for _ in range(2):
            operands = []
            for _ in range(32):
                data = halves(12, draw, element) if element else b""
                words = [as_word(float(draw.randrange(-40, 41)) / 8) | draw.randrange(1 << 13) for _ in range(6)]
                ab = struct.unpack("<6I", data) if element else tuple(words)
                operands.append((*ab, *[as_word(float(draw.randrange(-9, 10))) for _ in range(4)]))
            script.each(f"mma_{name}<{element}>" if element else f"mma_{name}", lambda t, o=operands: o[t])
    return [script]


def numbers(draw: random.Random) -> list[Script]:
    script = Script("numbers")
    special = [0.0, -0.0, 65504.0, 65519.0, 65520.0, 5.9604645e-8, 2.9802322e-8, 3.0e-8, float("inf"), float("nan")]

    def word() -> int:
        kind = draw.randrange(6)
        bits = draw.getrandbits(32)
        if kind == 0:
            return as_word(draw.choice(special))
        if kind == 1:
            return bits & 0xFFFFF000 & 0x83FFFFFF | 0x34000000  # ties of fp16
        if kind == 2:
            return bits & 0xFFFF0000 | 0x8000 if bits & 0x7F800000 not in (0, 0x7F800000) else 0  # ties of bf16
        if kind == 3:
            return (bits & 0x83FFFFFF) + 0x34000000  # where fp16 has its range
        if kind == 4:
            return bits & 0xFFFFE000 & 0xBFFFFFFF | 0x20001000  # ties of tf32
        return bits if 0 < bits >> 23 & 0xFF < 0xFF else 0

    for _ in range(12):
        words = [(word(), word()) for _ in range(32)]
        for name in ("from_float<float16>", "from_float<bfloat16>", "to_tf32"):
            script.each(name, lambda t, w=words: (w[t][0],))
        for name in ("pack<float16>", "pack<bfloat16>"):
            script.each(name, lambda t, w=words: w[t])
        finite = [draw.choice([draw.randrange(0x7C01), 0x8000 | draw.randrange(0x7C01)]) for _ in range(32)]
        script.each("to_float<float16>", lambda t, h=finite: (h[t],))
    return [script]


def cp_async(draw: random.Random) -> list[Script]:
    script = Script("cp_async", shared_bytes=32 * 28, global_memory=draw.randbytes(32 * 28))
    for size, first in ((16, 0), (8, 512), (4, 768)):
        script.each(f"cp_async_{size}", lambda t, s=size, f=first: (f + s * t, f + s * t, t % (s + 1)))
    script.step("cp_async_commit_group")
    script.step("cp_async_wait_group<0>")
    script.step("syncthreads")
    load_all(script, 8 * 28)
    groups = Script("cp_async groups", shared_bytes=32 * 16, global_memory=draw.randbytes(32 * 16))
    for part in range(3):
        groups.each("cp_async_4", lambda t, p=part: (16 * t + 4 * p, 16 * t + 4 * p, 4))
        groups.step("cp_async_commit_group")
    groups.step("cp_async_wait_group<2>")
    for part in range(3):  # of these only the first has come
        groups.each("load", lambda t, p=part: (16 * t + 4 * p,))
    groups.step("cp_async_wait_group<0>")
    groups.each("load", lambda t: (16 * t + 8,))
    return [script, groups]


def barriers(draw: random.Random) -> list[Script]:
    """The first warp arrives at barrier 3 and goes on; the second waits there, and then both meet at barrier 5."""
    script = Script("barriers", block_threads=64, shared_bytes=256)
    first, second = range(32), range(32, 64)
    for step in range(2):
        script.each("store", lambda t, s=step: (4 * t, 100 * s + t), of=first)
        script.step("bar_arrive", 3, 64, of=first)
        script.step("elect_one", of=first)  # what follows is not held up
        script.step("bar_sync", 3, 64, of=second)
        script.each("load", lambda t: (4 * (63 - t),), of=second)
        script.each("store", lambda t, s=step: (4 * t, 7 * s + t), of=second)
        script.step("bar_sync", 5, 64)
        script.each("load", lambda t: (4 * (t + 32),), of=first)
        script.step("bar_sync", 5, 64)
    # One that only arrives must not wait: the other comes after it has been told by the first.
    told = Script("arrives and goes on", block_threads=64, shared_bytes=16)
    told.step("mbarrier_init", 8, 1, of=[0])
    told.step("syncthreads")
    told.step("bar_arrive", 1, 64, of=first)
    told.step("mbarrier_arrive", 8, of=[0])
    told.step("mbarrier_wait", 8, 0, of=second)
    told.step("bar_sync", 1, 64, of=second)
    return [script, told]


def mbarriers(draw: random.Random) -> list[Script]:
    """Words go from the first warp to the second and back, phase after phase; then each arrives twice."""
    script = Script("mbarriers", block_threads=64, shared_bytes=256 + 2 * BARS)
    first, second, full, empty = range(32), range(32, 64), 256, 264
    script.step("mbarrier_init", full, 32, of=[0])
    script.step("mbarrier_init", empty, 1, of=[0])
    script.step("fence_mbarrier_init", of=[0])
    script.step("syncthreads")
    for phase in range(4):
        script.step("mbarrier_wait", empty, phase & 1 ^ 1, of=first)
        script.each("store", lambda t, p=phase: (4 * t, 1000 * p + t), of=first)
        script.step("mbarrier_arrive", full, of=first)
        script.step("mbarrier_wait", full, phase & 1, of=second)
        script.each("load", lambda t: (4 * (63 - t),), of=second)
        script.step("bar_sync", 1, 32, of=second)
        script.step("mbarrier_arrive", empty, of=[40])
    return [script]


def one_load(script: Script, wrapper: str, operands: tuple[int, ...], bytes: int, barrier: int) -> None:
    """By thread 5, onto a barrier that thread 5 makes; all wait for it, and read what has come."""
    script.step("mbarrier_init", barrier, 1, of=[5])
    script.step("fence_mbarrier_init", of=[5])
    script.step("mbarrier_arrive_expect_tx", barrier, bytes, of=[5])
    script.step("prefetch_tensor_map", operands[1], of=[5])
    script.step(wrapper, *operands, of=[5])
    script.step("syncthreads")
    script.step("mbarrier_wait", barrier, 0)
    load_all(script, bytes // 4)


def tma_loads(draw: random.Random) -> list[Script]:
    scripts = []
    tensor = (40, 7, 5)
    for swizzle, inner in ((0, 24), (32, 16), (64, 32), (128, 64)):
        box = (inner, 3, 4)
        tile = TensorMap(swizzle, tensor, (80, 560), box)
        for corner in ((8, 1, 1), (-3, -1, -2), (21, 5, 3)):
            size = 2 * inner * 12
            script = Script(f"tma_load_3d {swizzle} {corner}", shared_bytes=size + BARS, maps=[tile])
            script.global_memory = halves(40 * 7 * 5, draw)
            one_load(script, "tma_load_3d", (0, 0, size, *corner), size, size)
            scripts.append(script)
    # C, W, H, N of two images; taps that lie apart, steps that differ.
    image = (64, 9, 12, 2)
    strides = (128, 9 * 128, 12 * 9 * 128)
    for steps, lower, upper, offsets, corner in (
        ((1, 1), (-1, -1), (-1, -1), (2, 0), (0, -1, -1, 0)),
        ((1, 1), (-1, -2), (-1, -2), (0, 3), (0, 5, 6, 0)),
        ((2, 3), (-2, -1), (-2, -3), (4, 1), (0, 2, 5, 1)),
        ((3, 2), (0, 0), (-2, -4), (1, 4), (32, 3, 6, 1)),
    ):
        pixels = 24
        taps = TensorMap(
            128, image, strides, lower=lower, upper=upper, channels=64, pixels=pixels, steps=steps
        )  # fmt: skip
        script = Script(f"tma_load_im2col {steps}", shared_bytes=pixels * 128 + BARS, maps=[taps])
        script.global_memory = halves(64 * 9 * 12 * 2, draw)
        size = pixels * 128
        one_load(script, "tma_load_im2col", (0, 0, size, *corner, *offsets), size, size)
        scripts.append(script)
    return scripts


def tma_stores(draw: random.Random) -> list[Script]:
    """Two boxes from one place, the second after the first has been read; the last reaches over the edges."""
    scripts = []
    for swizzle, inner in ((0, 24), (64, 32), (128, 64)):
        tile = TensorMap(swizzle, (72, 6, 5), (144, 864), (inner, 2, 3))
        size = 2 * inner * 6
        script = Script(f"tma_store_3d {swizzle}", shared_bytes=2048, maps=[tile], global_memory=bytes(72 * 6 * 5 * 2))
        store_bytes(script, halves(inner * 6, draw))
        script.step("fence_proxy_async")
        script.step("syncthreads")
        script.step("tma_store_3d", 0, 0, 0, 1, 2, of=[7])
        script.step("tma_commit_group", of=[7])
        store_bytes(script, halves(inner * 6, draw), first=1024)
        script.step("fence_proxy_async")
        script.step("syncthreads")
        script.step("tma_store_3d", 0, 1024, 72 - inner // 2, 4, 0, of=[7])
        script.step("tma_commit_group", of=[7])
        script.step("tma_wait_group_read<1>", of=[7])
        script.step("syncthreads")
        store_bytes(script, bytes([0xEE] * size))  # the first has been read
        script.step("tma_wait_group_read<0>", of=[7])
        script.step("syncthreads")
        store_bytes(script, bytes([0xDD] * size), first=1024)
        scripts.append(script)
    return scripts


def clusters(draw: random.Random) -> list[Script]:
    """Ranks; arrivals at the next block's barrier; loads into sets of blocks."""
    token = Script("cluster", blocks=4, shared_bytes=BARS)
    leaders = range(0, 128, 32)
    token.step("mbarrier_init", 0, 1, of=leaders)
    token.step("fence_mbarrier_init", of=leaders)
    token.step("cluster_arrive_relaxed")
    token.step("cluster_wait")
    token.step("cluster_rank")
    for phase in range(3):
        for block in range(4):
            token.step("mbarrier_arrive_cluster", 0, (block + 1) % 4, of=[32 * block + 1])
            following = (block + 1) % 4
            token.step("mbarrier_wait", 0, phase & 1, of=range(32 * following, 32 * following + 32))
    sets = (0b0110, 0b1111, 0b0001)
    rows = TensorMap(128, (64, 3, 8), (128, 384), (64, 1, 8))
    share = Script("tma_load_3d_multicast", blocks=4, shared_bytes=3 * 1024 + BARS, maps=[rows])
    share.global_memory = halves(64 * 3 * 8, draw)
    share.step("mbarrier_init", 3072, 1, of=leaders)
    share.step("fence_mbarrier_init", of=leaders)
    share.each(
        "mbarrier_arrive_expect_tx",
        lambda t: (3072, 1024 * sum(one >> t // 32 & 1 for one in sets)),
        of=leaders,
    )
    share.step("cluster_arrive_relaxed")
    share.step("cluster_wait")
    for box, blocks in enumerate(sets):
        share.step("tma_load_3d_multicast", 1024 * box, 0, 3072, 0, box, 0, blocks, of=[32 * box + 3])
    share.step("mbarrier_wait", 3072, 0)
    # A block may go when nobody can reach it any more.
    share.step("cluster_arrive_relaxed")
    share.step("cluster_wait")
    return [token, share]


def registers(draw: random.Random) -> list[Script]:
    script = Script("registers", block_threads=384)
    script.step("give_registers_back<40>", of=range(256))
    script.step("take_registers<232>", of=range(256, 384))
    script.step("elect_one")
    return [script]


def wgmma(draw: random.Random) -> list[Script]:
    """Two products in a group and one in another, of matrices side by side; the first adds to nothing."""
    scripts = []
    for element in ("float16", "bfloat16"):
        one = (False, True) if element == "float16" else (True, False)
        for n in WGMMA_N:
            for across in (one, one[::-1], (False, False), (True, True))[: 4 if n == 64 else 1]:
                swizzle = draw.choice((32, 64, 128)) if n == 64 else 128
                scripts.append(one_wgmma(draw, element, n, *across, swizzle))
    return scripts


def one_wgmma(draw: random.Random, element: str, n: int, a_across: bool, b_across: bool, swizzle: int) -> Script:
    spelled = f"wgmma<{element},{n},{str(a_across).lower()},{str(b_across).lower()}>"
    pattern, per_row = 8 * swizzle, swizzle // 2
    # Along K: rows of `swizzle` bytes, 8 to a group. Across it: 16 rows of K, blocks of `per_row` beside one another.
    a_bytes = 64 // per_row * 16 * swizzle if a_across else 64 * swizzle
    b_bytes = -(-n // per_row) * 16 * swizzle if b_across else n * swizzle
    script = Script(f"{spelled} {swizzle}", block_threads=128)
    memory = halves((a_bytes + b_bytes) // 2, draw, element)
    script.shared_bytes = len(memory)
    store_bytes(script, memory)
    script.step("fence_proxy_async")
    script.step("syncthreads")
    script.each("fill", lambda t: (as_word(float(t)),))
    block = 16 * swizzle
    first = (0, block if a_across else 0, a_bytes, block if b_across else 0)
    inside = 0 if a_across or b_across or swizzle == 32 else 32  # the next 16 of K
    second = (inside, first[1], a_bytes + inside, first[3])
    script.step("wgmma_fence")
    script.step(spelled, swizzle, draw.randrange(2), pattern, *first)
    script.step(spelled, swizzle, 1, pattern, *second)
    script.step("wgmma_commit_group")
    script.step("wgmma_fence")
    script.step(spelled, swizzle, 1, pattern, *first)
    script.step("wgmma_commit_group")
    script.step("wgmma_wait_group<1>")
    script.step("wgmma_wait_group<0>")
    return script


def all_scripts() -> list[Script]:
    draw = random.Random(24)
    copies = (cp_async, barriers, mbarriers, tma_loads, tma_stores, clusters)
    return [script for part in (ldmatrix, mma, numbers, *copies, registers, wgmma, stmatrix) for script in part(draw)]
