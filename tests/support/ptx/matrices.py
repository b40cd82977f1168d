"""The instructions that move and multiply matrices: ldmatrix, stmatrix and mma (9.7.14.5), wgmma (9.7.15)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .isa import Execution
from .machine import IN_FLIGHT, SHARED, check
from .text import Number, Term, Vector

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}


def registers(term: Term, count: int, name: str) -> tuple[Term, ...]:
    check(isinstance(term, Vector) and len(term.terms) == count, f"{name}: {count} registers are wanted")
    assert isinstance(term, Vector)
    return term.terms


def ldmatrix(x: Execution) -> None:
    """9.7.14.5.15: lane L gives the row L % 8 of matrix L / 8, and gets of each the row L / 4, two columns."""
    *_, number, transposed, _, _ = x.modifiers(
        "sync", "aligned", "m8n8", "x1|x2|x4", "?trans", "shared|shared::cta", "b16"
    )
    x.whole_warp()
    count = int(number[1])
    into = registers(x.instruction.terms[0], count, x.instruction.name)
    for j in range(count):
        rows = []
        for frame in x.frames[8 * j : 8 * j + 8]:
            block, offset = x.machine.shared_at(frame.thread, x.address(frame, 1), 16)
            rows.append(list(memoryview(bytes(block.shared[offset : offset + 16])).cast("H")))
        if transposed:
            rows = [list(column) for column in zip(*rows, strict=True)]
        for lane, frame in enumerate(x.frames):
            low, high = rows[lane // 4][lane % 4 * 2 : lane % 4 * 2 + 2]
            frame.write(into[j], high << 16 | low)


def stmatrix(x: Execution) -> None:
    """9.7.14.5.16: lane L gives the row L % 8 of matrix L / 8, and has of each the row L / 4, two columns."""
    *_, number, transposed, _, _ = x.modifiers(
        "sync", "aligned", "m8n8", "x1|x2|x4", "?trans", "shared|shared::cta", "b16"
    )
    x.whole_warp()
    count = int(number[1])
    given = registers(x.instruction.terms[1], count, x.instruction.name)
    for j in range(count):
        rows = [[0] * 8 for _ in range(8)]
        for lane, frame in enumerate(x.frames):
            word, column = frame.read(given[j]), lane % 4 * 2
            rows[lane // 4][column : column + 2] = word & 0xFFFF, word >> 16
        if transposed:
            rows = [list(column) for column in zip(*rows, strict=True)]
        for frame, row in zip(x.frames[8 * j : 8 * j + 8], rows, strict=True):
            block, offset = x.machine.shared_at(frame.thread, x.address(frame, 0), 16)
            block.shared[offset : offset + 16] = struct.pack("<8H", *row)


def words_as(values: list[int], kind: str) -> Tensor:
    """Two 16-bit values to a word, the first in the lower half; of tf32 one, whose last 13 bits do not count."""
    words = torch.tensor([value - 2**32 if value >= 2**31 else value for value in values], dtype=torch.int32)
    if kind == "tf32":
        return (words & ~0x1FFF).view(torch.float32)
    return words.view(DTYPES[kind]).float()


def mma(x: Execution) -> None:
    """9.7.14.5.7 and .8: with g = lane / 4 and t = lane % 4, as mma.cuh says."""
    _, _, shape, _, _, _, kind, other, _ = x.modifiers(
        "sync", "aligned", "m16n8k16|m16n8k8", "row", "col", "f32", "f16|bf16|tf32", "f16|bf16|tf32", "f32"
    )
    x.whole_warp()
    check(kind == other and (kind == "tf32") == (shape == "m16n8k8"), x.instruction.name)
    d, a, b, c = x.instruction.terms
    d, a, b, c = (registers(term, size, x.instruction.name) for term, size in ((d, 4), (a, 4), (b, 2), (c, 4)))
    pair = 1 if kind == "tf32" else 2
    left, right, sums = torch.zeros(16, 8 * pair), torch.zeros(8 * pair, 8), torch.zeros(16, 8)
    for lane, frame in enumerate(x.frames):
        g, t = lane // 4, lane % 4
        values = words_as([frame.read(term) for term in a], kind).view(4, pair)
        for r in range(4):
            at = t * pair + 4 * pair * (r // 2)
            left[g + 8 * (r % 2), at : at + pair] = values[r]
        values = words_as([frame.read(term) for term in b], kind).view(2, pair)
        for r in range(2):
            at = t * pair + 4 * pair * r
            right[at : at + pair, g] = values[r]
        for r in range(4):
            sums[g + 8 * (r // 2), 2 * t + r % 2] = frame.read(c[r])
    sums += left @ right
    for lane, frame in enumerate(x.frames):
        for r in range(4):
            frame.write(d[r], float(sums[lane // 4 + 8 * (r // 2), 2 * (lane % 4) + r % 2]))


# ---- wgmma


def wgmma(x: Execution) -> None:
    kind = x.instruction.modifiers[0]
    products = x.warp.products
    x.whole_warp()
    if kind == "fence":
        x.modifiers("fence", "sync", "aligned")
        x.warp.fenced = True
    elif kind == "commit_group":
        x.modifiers("commit_group", "sync", "aligned")
        products.commit()
        x.warp.fenced = False
    elif kind == "wait_group":
        x.modifiers("wait_group", "sync", "aligned")
        products.wait(x.one(0))
    else:
        multiply(x)


def matrix(x: Execution, bits: int, transposed: bool, first: int, extent: int, kind: str) -> Callable[[], Tensor]:
    """What a descriptor (9.7.15.5.1.2.2) says: `extent` rows or columns from `first` on, by 16 of K."""
    start, leading, stride = ((bits >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    width = {1: 128, 2: 64, 3: 32}.get(bits >> 62)
    check(width is not None and bits & 0x3FF1_C000_C000_C000 == 0 and bits >> 49 & 7 == 0, f"a descriptor of {bits:#x}")
    assert width is not None
    mn, k = torch.meshgrid(torch.arange(first, first + extent), torch.arange(16), indexing="ij")
    if transposed:
        per_row = width // 2
        linear = start + mn // per_row * leading + mn % per_row * 2 + k % 8 * width + k // 8 * stride
    else:
        linear = start + mn // 8 * stride + mn % 8 * width + k * 2
    places = (linear ^ ((linear >> 7) % (width // 16) << 4)) - SHARED
    block = x.warp.block
    check(0 <= int(places.min()) and int(places.max()) + 2 <= len(block.shared), "a matrix outside of shared memory")

    def read() -> Tensor:
        memory = torch.frombuffer(bytearray(block.shared), dtype=torch.int16)[places // 2]
        view = torch.frombuffer(bytearray(block.view), dtype=torch.int16)[places // 2]
        check(bool((memory == view).all()), "the async proxy reads what no fence has shown it")
        return memory.view(DTYPES[kind]).float()

    return read


def multiply(x: Execution) -> None:
    """A warp's part, 16 rows, of the product of its warpgroup. What it accumulates in is nobody's until it is made."""
    shape = re.fullmatch(r"m64n(\d+)k16", x.instruction.modifiers[3])
    check(shape is not None, x.instruction.name)
    assert shape is not None
    *_, kind, other = x.modifiers("mma_async", "sync", "aligned", shape.group(), "f32", "f16|bf16", "f16|bf16")
    n = int(shape.group(1))
    check(kind == other and n % 8 == 0 and 8 <= n <= 256, x.instruction.name)
    check(x.warp.fenced, "no wgmma.fence before the products of a group")
    d_term, a, b, scale_d, scale_a, scale_b, transposed_a, transposed_b = x.instruction.terms
    d = registers(d_term, n // 2, x.instruction.name)
    signs = [x.one(5 - 1 + i) for i in range(2)]
    check(all(abs(sign) == 1 for sign in signs), f"scales of {signs}")
    check(all(x.one(i) in (0, 1) for i in (6, 7)), "transposed by more than 1")
    left = matrix(x, x.one(1), bool(x.one(6)), 16 * (x.warp.index % 4), 16, kind)
    right = matrix(x, x.one(2), bool(x.one(7)), 0, n, kind)
    accumulate = bool(x.one(3))
    numbers = [term.index for term in d if isinstance(term, Number)]
    check(len(set(numbers)) == n // 2, f"{x.instruction.name}: a register twice")
    kept = [[frame.values[number] for number in numbers] for frame in x.frames]
    check(not accumulate or not any(None in values for values in kept), "it adds to what nothing has written")
    targets = [(frame.thread, [frame.places[number] for number in numbers]) for frame in x.frames]
    for frame in x.frames:
        for term in d:
            frame.write(term, IN_FLIGHT)

    def make() -> None:
        sums = (signs[0] * left()) @ (signs[1] * right()).T
        v = torch.arange(n // 2)
        for lane, (thread, places) in enumerate(targets):
            rows, columns = lane // 4 + 8 * (v // 2 % 2), 8 * (v // 4) + lane % 4 * 2 + v % 2
            values: list[Any] = sums[rows, columns].tolist()
            for register, place in enumerate(places):
                before = kept[lane][register]
                if accumulate:
                    values[register] += thread.sums[place] if before is IN_FLIGHT else before
                thread.sums[place] = values[register]

    x.warp.products.open.effects.append(make)
