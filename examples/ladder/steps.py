"""What the steps are, how many bytes they ask of global memory, and what that says of an H100."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

from alexkern.cost.chips import CHIPS, Chip

FOLDER = Path(__file__).resolve().parent
DIFFERENCE = 75  # lines of code that a step may have besides its forerunner's


@dataclass(frozen=True)
class Shape:
    """A convolution of stride 1 whose output is as large as its input, and 3x3 windows of stride 2 over it."""

    N: int
    H: int
    W: int
    C: int
    K: int
    R: int
    S: int

    @property
    def pooled_H(self) -> int:
        return (self.H - 1) // 2

    @property
    def pooled_W(self) -> int:
        return (self.W - 1) // 2

    @property
    def names(self) -> dict[str, int]:
        """Those of the formulas: tiles are the 64 x 64 ones of a product, strips the 15 windows wide ones of step 5."""
        gemm_m, pooled = self.N * self.H * self.W, self.N * self.pooled_H * self.pooled_W * self.K
        tiles, strips = math.ceil(gemm_m / 64) * (self.K // 64), self.N * math.ceil(self.pooled_W / 15) * (self.K // 64)
        products = {"GEMM_M": gemm_m, "GEMM_K": self.R * self.S * self.C}
        return {**vars(self), "pooled_H": self.pooled_H, **products, "tiles": tiles, "strips": strips, "pooled": pooled}

    def of_batch(self, images: int) -> Shape:
        return replace(self, N=images)

    def __str__(self) -> str:
        return (
            f"{self.N} x {self.C} x {self.H} x {self.W}, {self.K} filters {self.R} x {self.S}, "
            f"windows 3 x 3 of stride 2"
        )


CONV2 = Shape(1, 27, 27, 64, 192, 5, 5)  # AlexNet's second layer, one image
SMALL = Shape(2, 9, 8, 64, 64, 3, 3)  # what faults are looked for in
TINY = Shape(1, 4, 4, 64, 64, 3, 3)  # what is printed whole

POOL = "20 * pooled"  # nine halves read and one written
CONV = "2 * GEMM_M * K"


@dataclass(frozen=True)
class Step:
    """One file. `bytes` and `products` are formulas in the names of a Shape: bytes asked of global memory by all
    threads, whoever answers, and multiply-adds with those in vain."""

    name: str  # on the command line
    file: str
    idea: str
    bytes: str
    products: str
    tensor_cores: bool
    writes: tuple[str, ...]  # of conv, pooled and place

    @property
    def path(self) -> Path:
        return FOLDER / self.file

    @property
    def target(self) -> str:
        """What nvcc compiles it for."""
        return "90a" if "wgmma" in self.idea else "80"

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")


SEPARATE = ("conv", "pooled")
TILED = "tiles * 64 * 64 * GEMM_K"
STEPS = {
    step.name: step
    for step in (
        Step(
            "1", "1_naive.cu", "a thread an output",
            f"4 * GEMM_M * K * GEMM_K + {CONV} + {POOL}", "GEMM_M * K * GEMM_K", False, SEPARATE,
        ),
        Step(
            "2", "2_im2col.cu", "the matrix made",
            f"4 * GEMM_M * GEMM_K + 4 * GEMM_M * K * GEMM_K + {CONV} + {POOL}", "GEMM_M * K * GEMM_K", False, SEPARATE,
        ),
        Step(
            "3", "3_implicit.cu", "gathered into shared memory, tile by tile",
            f"tiles * 256 * GEMM_K + {CONV} + {POOL}", TILED, False, SEPARATE,
        ),
        Step(
            "4", "4_tensor_core.cu", "cp.async, swizzle, ldmatrix, mma.sync",
            f"tiles * 256 * GEMM_K + {CONV} + {POOL}", TILED, True, SEPARATE,
        ),
        Step(
            "5", "5_fused.cu", "pooling in the epilogue, one byte a window",
            "strips * (pooled_H + 1) * 256 * GEMM_K + 3 * pooled", "strips * (pooled_H + 1) * 64 * 64 * GEMM_K", True,
            ("pooled", "place"),
        ),
        Step(
            "6", "6_hopper.cu", "TMA, mbarriers, wgmma; convolution and ReLU alone",
            f"tiles * 256 * GEMM_K + {CONV}", TILED, True, ("conv",),
        ),
        Step(
            "7", "7_triton.py", "steps 3 and 5 in Triton",
            f"tiles * 256 * GEMM_K + {CONV} + strips * (pooled_H + 1) * 256 * GEMM_K + 3 * pooled",
            f"{TILED} + strips * (pooled_H + 1) * 64 * 64 * GEMM_K", True, ("conv", "pooled", "place"),
        ),
    )
}  # fmt: skip


def value(formula: str, shape: Shape) -> int:
    """What a formula of STEPS comes to."""
    return int(eval(formula, {}, shape.names))


def microseconds(step: Step, shape: Shape, chip: Chip = CHIPS["H100"]) -> float:
    """By alexkern.cost's chip: the multiply-adds, or the bytes as if L2 answered all of them, whichever takes longer.

    It ranks the steps, and was not measured.
    """
    rate, clock = (chip.half, chip.clock) if step.tensor_cores else (chip.ieee, chip.boost)
    arithmetic = value(step.products, shape) / (chip.num_sms * rate * clock)
    bytes = value(step.bytes, shape) / (chip.num_sms * chip.l2_bytes * chip.clock)
    return 1e6 * max(arithmetic, bytes)


def code_of(step: Step) -> list[str]:
    """A step's lines of code: without comments and blanks, and without the head."""
    text = re.sub(r'\A"""[\s\S]*?"""\n', "", step.text())
    return [line for line in text.splitlines() if line.strip() and not line.strip().startswith(("//", "#  ", "# "))]


def added_lines(step: Step) -> int:
    """Lines of code that the step before does not have; step 7 is held to nothing, in another language."""
    before = STEPS.get(str(int(step.name) - 1)) if step.file.endswith(".cu") else None
    known = code_of(before) if before else []
    return sum(line.startswith("+ ") for line in difflib.ndiff(known, code_of(step)))


def head_of(step: Step) -> list[str]:
    """The comment or docstring that a file begins with, as it reads."""
    lines = step.text().splitlines()
    if step.file.endswith(".py"):
        return step.text().split('"""')[1].splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("//"))
    return [line.removeprefix("//").removeprefix(" ") for line in lines[:end]]
