"""Faults to plant: each is one substitution in one line of a step, and applies exactly once."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """`wrong` in place of `right`, in a line of the step; `what` it is that was forgotten."""

    step: str
    name: str
    what: str
    right: str
    wrong: str

    def planted(self, text: str) -> str:
        """The text with the fault in it."""
        found = text.count(self.right)
        if found != 1 or "\n" in self.right + self.wrong:
            raise ValueError(f"fault {self.name} of step {self.step}: {self.right!r} is there {found} times, not once")
        return text.replace(self.right, self.wrong)

    def line(self, text: str) -> int:
        """The number of the line in which it is planted."""
        return text.count("\n", 0, text.index(self.right)) + 1

    def kernel(self, text: str) -> str:
        """The kernel whose fault it is: that in which it is planted, or that which calls or launches what it is in."""
        at = text.index(self.right)
        before = re.findall(r"(\w+)_kernel\(|^def (\w+)\(", text[:at], re.MULTILINE)
        found = before[-1:] or re.findall(r"(\w+)_kernel\(|^def (\w+)\(", text[at:], re.MULTILINE)[:1]
        return next(filter(None, found[0]))


FAULTS = (
    Fault("3", "no_barrier_behind_the_gather", "waiting until the tiles are whole",
          "__syncthreads();  // the tiles are whole", ";"),
    Fault("3", "no_barrier_behind_the_product", "waiting until all have read the tiles",
          "__syncthreads();  // all have read them", ";"),
    Fault("3", "no_border", "that a row of the image ends: the tap beside it is the next row's first pixel",
          "&& h >= 0 && h < v.H && w >= 0 && w < v.W;", "&& h >= 0 && h < v.H;"),
    Fault("3", "tile_too_large", "that shared memory for two tiles was asked for",
          "2 * kTile * sizeof(float), stream", "kTile * sizeof(float), stream"),
    Fault("4", "wait_one_short", "that the newest group but one is the one to be read",
          "cp_async_wait_group<kStages - 2>", "cp_async_wait_group<kStages - 1>"),
    Fault("4", "no_commit", "closing the group that is waited for",
          "ptx::cp_async_commit_group();", ";"),
    Fault("4", "no_barrier", "that other threads' copies land for them, and not for this one",
          "__syncthreads();  // this step has landed", ";  // this step has landed"),
    Fault("4", "narrow_swizzle", "that eight rows are read at once: the result is right, and a load takes two passes",
          "(vector ^ (row & 7))", "(vector ^ (row & 3))"),
    Fault("4", "swapped_halves", "which lanes give the addresses of which 8 x 8 matrix",
          "2 * k + lane / 16)", "2 * k + lane / 8 % 2)"),
    Fault("5", "no_carry", "computing the row above the first windows",
          "for (int p = -1; p < v.pooled_h(); ++p)", "for (int p = 0; p < v.pooled_h(); ++p)"),
    Fault("5", "two_places", "that three rows are needed at once: the carried one is overwritten",
          "const int place = (2 * p + 1 + m / kColumns + 3) % 3;", "const int place = 1 + m / kColumns;"),
    Fault("5", "no_barrier_before_pooling", "waiting until the other warps have finished their values",
          "__syncthreads();  // the three rows are whole", ";  // the three rows are whole"),
    Fault("5", "not_clipped", "that no gradient passes where the ReLU let nothing through",
          "best <= 0.0f ? kClipped :", "best < 0.0f ? kClipped :"),
    Fault("6", "no_proxy_fence", "telling TMA of what threads wrote",
          "ptx::fence_proxy_async();", ";"),
    Fault("6", "no_barrier_fence", "telling TMA of the barriers",
          "ptx::fence_mbarrier_init();", ";"),
    Fault("6", "too_few_bytes", "that both tiles are announced",
          "expect_tx(landed, 2 * kTile)", "expect_tx(landed, kTile)"),
    Fault("6", "wrong_parity", "that the first wait for an empty stage must not wait",
          "(round + 1) & 1", "round & 1"),
    Fault("6", "no_wait_for_full", "waiting for a stage before it is multiplied",
          "ptx::mbarrier_wait(full + 8 * stage, round & 1);", ";"),
    Fault("6", "released_too_early", "that the newest products still read their stage",
          "ptx::wgmma_wait_group<1>(sum);", "ptx::wgmma_wait_group<2>(sum);"),
    Fault("6", "no_wgmma_fence", "telling the tensor cores that the registers are ready",
          "ptx::wgmma_fence();", ";"),
    Fault("6", "no_wait_for_products", "that products run on by themselves",
          "ptx::wgmma_wait_group<0>(sum);", ";"),
    Fault("6", "wrong_swizzle", "that the epilogue must lay out rows as TMA will read them",
          "16 * (k / 8 ^ (m & 7))", "16 * (k / 8)"),
    Fault("7", "no_border", "that a row of the image ends: the tap beside it is the next row's first pixel",
          "& (h < H) & (col >= 0) & (col < W)", "& (h < H)"),
    Fault("7", "no_carry", "handing the last row down to the next windows",
          "carry, carry_place = under, under_place", "carry_place = under_place"),
    Fault("7", "no_overlap", "that windows overlap: the third column is the next window's first",
          "tl.minimum(q + 1, BLOCK_Q - 1)", "q"),
    Fault("7", "last_of_equals", "that the first of equal values wins",
          "take = (value > best)", "take = (value >= best)"),
)  # fmt: skip


def faults_of(step: str) -> dict[str, Fault]:
    """By name."""
    return {fault.name: fault for fault in FAULTS if fault.step == step}
