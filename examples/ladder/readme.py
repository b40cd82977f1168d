"""Writes README.md beside it: python -m examples.ladder.readme, in the root of the source tree."""

from __future__ import annotations

from . import machine
from .faults import FAULTS
from .machine import Inputs
from .steps import CONV2, FOLDER, STEPS, TINY, Step, added_lines, code_of, microseconds, value

BATCH = 128
COUNTERS = ("ldmatrix", "conflicts", "mma", "wgmma", "cp.async", "TMA")
TEXT = """\
<!-- written by: python -m examples.ladder.readme -->

# The ladder

AlexNet's second layer, convolution, ReLU and max-pooling, in seven steps: from a loop that anybody can read to what a
Hopper GPU wants. Each file is complete, and has one idea more than the file before. All but the last are CUDA C++ on
[csrc/cuda/ptx](../../csrc/cuda/ptx), a few lines of wrapper an instruction, and all of them run here, without a GPU:

```sh
alexkern learn                                 # the steps, and the faults that can be planted in them
alexkern learn 4                               # run step 4: pictures, a 4 x 4 image whole, the layer in numbers
alexkern learn 6 --break no_proxy_fence        # forget something, and see what finds it
alexkern learn 4 --gpu                         # on a GPU, timed; needs nvcc
alexkern learn dropout                         # the classifier's dropout, with a mask and without
```

The C++ compiler builds a step, and [the emulator](../../docs/emulator.md) runs it (step 7: Triton's interpreter). Its
result is held to torch by the accuracy rule of [alexkern/accuracy.py](../../alexkern/accuracy.py). Read a file's head
first: the formula, the tile as a picture, the numbers of one thread, what is new, and an exercise. The pictures are
printed by code, and tested.

## What each step gains

Counted by the emulator for {shape}: instructions of a warp, and copies. Bytes
are those that all threads ask of global memory, whoever answers; the formulas are in [steps.py](steps.py). The last
column is what
[alexkern.cost](../../alexkern/cost/chips.py)'s H100 would take for {batch} images, if it had to do the step's
multiply-adds and get its bytes from L2, whichever takes longer. **It ranks the steps. Nothing in it was measured.**

{steps}

Step 2 asks for more than step 1, in an eighth of the load instructions: 16 bytes at a time, which no column shows.
Step 5 multiplies more than step 4, for rows and columns that windows do not need, and saves the output's way to memory
and back. Step 6 asks for what step 4 does, without pooling: what it gains is that no thread computes an address, and
that nobody waits for everybody.

## What can go wrong

Each fault is one substitution in one line ([faults.py](faults.py)); the emulator, its race detector or torch's result
finds every one of them.

{faults}

## From here

[docs/kernels.md](../../docs/kernels.md) has the way from these files to the kernels that alexkern runs.
"""


def counted(step: Step) -> dict[str, float]:
    """A step without tensor cores has none of what is counted, in an image of any size."""
    if not step.file.endswith(".cu"):
        return {}
    return machine.run(step, Inputs.drawn(CONV2 if step.tensor_cores else TINY)).counted


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def steps_table() -> str:
    header = ("step", "idea", "lines of code", "of them new", *COUNTERS, "global bytes", f"H100, {BATCH} images, us")
    rows = [_row(*header), _row("---", "---", *["--:"] * (len(header) - 2))]
    for step in STEPS.values():
        numbers = counted(step)
        counts = [f"{numbers[name]:,.0f}" if numbers else "" for name in COUNTERS]
        predicted = f"{microseconds(step, CONV2.of_batch(BATCH)):,.0f}"
        lines = (len(code_of(step)), added_lines(step))
        rows.append(
            _row(f"[{step.file}]({step.file})", step.idea, *lines, *counts, f"{value(step.bytes, CONV2):,}", predicted)
        )
    return "\n".join(rows)


def faults_table() -> str:
    rows = [_row("step", "fault", "what is forgotten"), _row("---", "---", "---")]
    return "\n".join(rows + [_row(fault.step, f"`{fault.name}`", fault.what) for fault in FAULTS])


def text() -> str:
    return TEXT.format(shape=CONV2, batch=BATCH, steps=steps_table(), faults=faults_table())


if __name__ == "__main__":
    (FOLDER / "README.md").write_text(text(), encoding="utf-8")
