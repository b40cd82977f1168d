"""The pictures in the steps' heads, and one thread's numbers: computed, so that a test can hold the heads to them.

Small ones are of a 4 x 4 image and a 3 x 3 filter; threads are of AlexNet's second layer.
"""

from __future__ import annotations

from alexkern.cost.chips import CHIPS

from .steps import CONV2

SIZE, TAPS = 4, 3


def _row(label: str, cells: list[object], width: int) -> str:
    return (label + "".join(f"{cell!s:>{width}}" for cell in cells)).rstrip()


def _pixel(m: int) -> tuple[int, int, int]:
    return m // (CONV2.H * CONV2.W), m // CONV2.W % CONV2.H, m % CONV2.W


def _tap(m: int, r: int, s: int) -> str:
    """The pixel of the 4 x 4 image that a tap of output m reads, or - where it lies outside."""
    h, w = m // SIZE + r - TAPS // 2, m % SIZE + s - TAPS // 2
    return f"{h}{w}" if 0 <= h < SIZE and 0 <= w < SIZE else "-"


def naive() -> list[str]:
    """The pixels that one output looks at; a thread."""
    m, chip = 6, CHIPS["H100"]
    reads = {_tap(m, r, s): f"{r}{s}" for r in range(TAPS) for s in range(TAPS)}
    lines = [_row("w =  ", list(range(SIZE)), 4)]
    lines += [_row(f"h = {h}", [reads.get(f"{h}{w}", ".") for w in range(SIZE)], 4) for h in range(SIZE)]
    in_a_byte = chip.num_sms * chip.ieee * chip.boost / chip.memory
    block, thread = 4, 77
    i = 256 * block + thread
    m, k = divmod(i, CONV2.K)
    _, p, q = _pixel(m)
    taps = sum(0 <= p + r - 2 < CONV2.H and 0 <= q + s - 2 < CONV2.W for r in range(5) for s in range(5))
    return [
        "output m = 6, p = 1, q = 2, and the taps rs that read each pixel:",
        *lines,
        f"block {block}, thread {thread}: i = {i}, m = {m}, k = {k}, p = {p}, q = {q}; {taps} of 25 taps lie inside: "
        f"{taps * CONV2.C} products",
        f"an H100 makes {in_a_byte:.0f} multiply-adds in fp32 in the time of a byte from its memory",
    ]


def im2col() -> list[str]:
    """Rows of the matrix, and a thread that makes a part of one."""
    taps = [(r, s) for r in range(TAPS) for s in range(TAPS)]
    lines = [_row("tap      ", [f"{r}{s}" for r, s in taps], 4)]
    lines += [_row(f"m = {m:2}   ", [_tap(m, r, s) for r, s in taps], 4) for m in (0, 1, 5, 6, 15)]
    i, vectors = 70_000, CONV2.C // 8
    m, tap, vector = i // (25 * vectors), i // vectors % 25, i % vectors
    _, p, q = _pixel(m)
    h, w = p + tap // 5 - 2, q + tap % 5 - 2
    where = "inside" if 0 <= h < CONV2.H and 0 <= w < CONV2.W else "outside: zeros"
    return [
        "rows of the matrix, and the pixel hw that each tap copies into them (- is zeros):",
        *lines,
        f"thread {i}: m = {m}, tap {tap} = ({tap // 5}, {tap % 5}), channels {8 * vector} to {8 * vector + 7} of pixel "
        f"({h}, {w}), {where}",
    ]


def _every_sixteenth(first: int) -> str:
    return ", ".join(str(first + 16 * i) for i in range(4))


def implicit() -> list[str]:
    """Which thread has which outputs of a tile; a thread."""
    columns = [0, 1, 2, 15, 16, 17]
    lines = [_row("   filter", columns, 5)]
    lines += [_row(f"pixel {m:2} ", [16 * (m % 16) + n % 16 for n in columns], 5) for m in (0, 1, 2, 15, 16, 17)]
    block, thread, step = 5, 77, 7
    down, across = divmod(thread, 16)
    row, vector = divmod(thread, 8)
    m = 64 * block + row
    _, p, q = _pixel(m)
    h, w = p + step // 5 - 2, q + step % 5 - 2
    return [
        "thread of each output in a 64 x 64 tile; a thread has 4 x 4 of them, every sixteenth:",
        *lines,
        f"tile {block}, step {step}, thread {thread} fetches, for pixel {m} (p = {p}, q = {q}) and tap ({step // 5}, "
        f"{step % 5}), channels {8 * vector} to {8 * vector + 7} of ({h}, {w});",
        f"it multiplies rows {_every_sixteenth(down)} by filters {_every_sixteenth(across)}",
    ]


def tensor_core() -> list[str]:
    """Where vectors of a row lie, which lane has which sums; a lane."""
    lines = [_row("  vector", list(range(8)), 4)]
    lines += [_row(f"  row {row} ", [vector ^ (row & 7) for vector in range(8)], 4) for row in range(8)]
    sums = [_row("  filter", list(range(8)), 5)]
    sums += [
        _row(f"  row {m:2}", [f"{4 * (m % 8) + n // 2}.{m // 8 * 2 + n % 2}" for n in range(8)], 5)
        for m in (0, 1, 7, 8, 15)
    ]
    lane = 21
    row, vector = 16 + lane % 16, 2 + lane // 16
    byte = 128 * row + 16 * (vector ^ (row & 7))
    return [
        "place of each vector (16 bytes, 8 channels) of a row; ldmatrix reads a column of eight:",
        *lines,
        "lane.register of the sums in a 16 x 8 fragment:",
        *sums,
        f"lane {lane}, warp 0, i = 1, k = 1: the address of row {row}, vector {vector}: byte {byte}",
    ]


def fused() -> list[str]:
    """The walk down an image of 8 rows."""
    lines = ["          rows computed   in places   rows pooled"]
    for p in range(-1, 3):
        rows = (2 * p + 1, 2 * p + 2)
        computed, places = " ".join(f"{row:2}" for row in rows), " ".join(f"{(row + 3) % 3}" for row in rows)
        pooled = " ".join(str(2 * p + r) for r in range(3)) if p >= 0 else "none"
        lines.append(f"p = {p:2}    {computed:15} {places:11} {pooled}")
    thread, p = 77, 3
    warp, lane = divmod(thread, 32)
    m, k = warp // 2 * 32 + lane // 4, warp % 2 * 32 + 8 + 2 * (lane % 4)  # of sum[0][1][0]
    window, channel = divmod(thread, 64)
    columns = ", ".join(str(2 * window + s) for s in range(3))
    return [
        "the walk down an image; row h of the convolution lies in place h % 3:",
        *lines,
        f"thread {thread}, p = {p}, sum[0][1][0]: m = {m}, row {2 * p + 1 + m // 32}, column {m % 32}, filter {k};",
        f"then it pools window {window}, filter {channel}: columns {columns} of rows {2 * p}, {2 * p + 1}, {2 * p + 2}",
    ]


def hopper() -> list[str]:
    """TMA's walk through the image, the ring's parities; a thread."""
    walk = [_row("  m    ", list(range(6, 12)), 4)]
    walk.append(_row("  tap 02", [_tap(m, 0, 2) for m in range(6, 12)], 4))
    walk.append(_row("  tap 22", [_tap(m, 2, 2) for m in range(6, 12)], 4))
    steps = range(10)
    ring = [_row("  step            ", list(steps), 3), _row("  stage           ", [step % 4 for step in steps], 3)]
    ring.append(_row("  full is awaited ", [step // 4 & 1 for step in steps], 3))
    ring.append(_row("  empty is awaited", [(step // 4 + 1) & 1 for step in steps], 3))
    thread, i = 77, 6
    warp, lane = divmod(thread, 32)
    m, k = 16 * warp + i // 2 % 2 * 8 + lane // 4, i // 4 * 8 + 2 * (lane % 4)
    byte = 128 * m + 16 * (k // 8 ^ (m & 7)) + 2 * (k % 8)
    return [
        "pixels hw that one im2col copy brings, from output 6 on (- is zeros):",
        *walk,
        "a ring of four stages, and the parity with which each is awaited:",
        *ring,
        f"thread {thread}, sum[{i}]: pixel {m}, filter {k}, staged at byte {byte}",
    ]


def in_triton() -> list[str]:
    """What m is in the fused kernel; one of its programs."""
    ms, block, p, m = [0, 1, 2, 3, 31, 32, 33, 63], 2, 3, 35
    q, rows = m % 32 // 2, f"{2 * p}, {2 * p + 1}, {2 * p + 2}"
    return [
        "m of the fused kernel: two rows of 32 columns, in pairs:",
        _row("  m      ", [*ms], 5),
        _row("  row    ", [m // 32 for m in ms], 5),
        _row("  q      ", [m % 32 // 2 for m in ms], 5),
        _row("  column ", [m % 32 for m in ms], 5),
        f"program ({block}, 0, 0), p = {p}, m = {m}: row {2 * p + 1 + m // 32}, column {m % 32}, "
        f"filters {64 * block} to {64 * block + 63};",
        f"its q = {q} stores window {q}: columns {2 * q}, {2 * q + 1}, {2 * q + 2} of rows {rows}",
    ]


PICTURES = {
    "1": naive, "2": im2col, "3": implicit, "4": tensor_core, "5": fused, "6": hopper, "7": in_triton,
}  # fmt: skip
