"""What `alexkern learn` prints of a step: its pictures, a 4 x 4 image whole, AlexNet's second layer in numbers."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from alexkern import accuracy
from alexkern._nvcc import find_nvcc
from alexkern.backends.building import run as run_command
from alexkern.commands import EXIT_PARTLY, CommandError
from alexkern.console import first_line, table

from . import machine
from .faults import FAULTS, Fault, faults_of
from .machine import Inputs
from .pictures import PICTURES
from .steps import CONV2, FOLDER, SMALL, STEPS, TINY, Step, microseconds, value

DROPOUT = "dropout"
NAMES = (*STEPS, DROPOUT)
BATCH = 128  # of the prediction
NOTABLE = ("FFMA", "HMMA", "HGMMA", "LDG", "LDGSTS", "LDS", "LDSM", "UTMALDG", "STG", "UTMASTG", "BAR", "SYNCS")
Tell = Callable[[str], None]


class NotHere(CommandError):
    """What a lesson needs and this machine lacks, or what does not exist; in one line."""


def learn(name: str | None, fault_name: str | None, gpu: bool, tell: Tell) -> int:
    """What the command does, and its exit status: EXIT_PARTLY where a planted fault was not found.

    Raises:
        NotHere: there is no such step or fault, or something that it needs is missing, or the compiler failed.
        machine.Wrong: a step is.
    """
    try:
        found = take(name, fault_name, gpu, tell)
    except RuntimeError as error:  # the compiler's
        raise NotHere(first_line(error).removeprefix("alexkern: ")) from None
    return 0 if found else EXIT_PARTLY


def take(name: str | None, fault_name: str | None, gpu: bool, tell: Tell) -> bool:
    """A step, or the list of them; whether a fault that was planted was found, if there was one."""
    if name is None:
        if fault_name or gpu:
            raise NotHere(f"which step? There are {', '.join(NAMES)}")
        show_list(tell)
        return True
    step, fault = find(name, fault_name)
    if step is None:
        runpy.run_path(str(FOLDER / "dropout.py"), run_name="__main__")
        return True
    if gpu:
        show_on_gpu(step, tell)
        return True
    prepare(step)
    if fault is not None:
        return break_it(step, fault, tell)
    show(step, tell)
    return True


def show_list(tell: Tell) -> None:
    """The steps, and what can be broken in each."""
    tell("The ladder: one layer in seven steps (examples/ladder). alexkern learn STEP runs one,")
    tell("alexkern learn STEP --break FAULT plants a fault in it and shows what finds it.")
    tell("")
    rows = [("step", "file", "idea"), *((step.name, step.file, step.idea) for step in STEPS.values())]
    for line in table([*rows, (DROPOUT, "dropout.py", "with a mask, and from a seed")]):
        tell(line)
    tell("")
    for line in table((fault.step, fault.name, f"forgets {fault.what}") for fault in FAULTS):
        tell(line)


def find(name: str, fault: str | None) -> tuple[Step | None, Fault | None]:
    """The step and the fault of these names; no step for dropout. Raises NotHere where there is none."""
    if name not in NAMES:
        raise NotHere(f"no step is called {name!r}; there are {', '.join(NAMES)}")
    known = faults_of(name)
    if fault is not None and fault not in known:
        there = f"there are {', '.join(known)}" if known else "it has none"
        raise NotHere(f"no fault of step {name} is called {fault!r}; {there}")
    return STEPS.get(name), known.get(fault or "")


def prepare(step: Step) -> None:
    """Raises NotHere where the step cannot run here. Triton's interpreter is chosen before triton is imported."""
    if step.file.endswith(".cu"):
        reason = machine.missing()
    else:
        os.environ["TRITON_INTERPRET"] = "1"
        reason = None if machine.has_triton() else "step 7 needs triton (pip install triton, on Linux)"
    if reason is not None:
        raise NotHere(reason)


def show(step: Step, tell: Tell) -> None:
    """Raises machine.Wrong where something is."""
    tell(f"Step {step.name}, examples/ladder/{step.file}: {step.idea}")
    tell("")
    for line in PICTURES[step.name]():
        tell(f"  {line}")
    tell("")
    _show_whole(step, tell)
    tell("")
    shape = CONV2 if step.file.endswith(".cu") else SMALL  # an interpreter takes its time
    of = "AlexNet's second layer" if shape == CONV2 else "A smaller layer"
    tell(f"{of}: {shape}")
    inputs = Inputs.drawn(shape)
    ran = machine.run(step, inputs)
    machine.check(step, inputs, ran.outputs)
    exact, half = machine.torchs(inputs, torch.float64), machine.torchs(inputs, torch.float16)
    for name in step.writes:
        if name != "place":
            error, allowed = accuracy.error_and_allowed(ran.outputs[name], exact[name], half[name])
            tell(f"  {name:6} right: error {error:.1e}, allowed by alexkern.accuracy is {allowed:.1e}")
    if "place" in step.writes:
        tell("  place  right: every byte names a winner")
    if ran.counted:
        tell("  counted: " + ", ".join(f"{name} {number:,.0f}" for name, number in ran.counted.items()))
    tell(f"  global bytes: {step.bytes}")
    tell(f"              = {value(step.bytes, shape):,}")
    predicted = microseconds(step, CONV2.of_batch(BATCH))
    tell(f"  predicted on an H100, {BATCH} images: {predicted:,.0f} us (by alexkern.cost; not measured)")
    for line in compiled(step):
        tell(f"  {line}")


def _show_whole(step: Step, tell: Tell) -> None:
    inputs = Inputs.whole_numbers(TINY)
    found = machine.run(step, inputs).outputs
    machine.check(step, inputs, found)
    tell("A 4 x 4 image, channel 0 and filter 0; all other channels are 0")
    blocks = [("x", inputs.x[0, :, :, 0]), ("w", inputs.w[0, :, :, 0])]
    blocks += [(name, found[name][0, :, :, 0]) for name in step.writes]
    rows = [tuple(name for name, _ in blocks)]
    for i in range(TINY.H):
        lines = (block[i].tolist() if i < len(block) else [] for _, block in blocks)
        rows.append(tuple(" ".join(f"{number:2.0f}" for number in line) for line in lines))
    for line in table(rows):
        tell(f"  {line}")


def compiled(step: Step) -> list[str]:
    """What nvcc makes of a step's kernels, where it is: instructions and registers."""
    nvcc = find_nvcc()
    if nvcc is None or not step.file.endswith(".cu"):
        return []
    from alexkern.tools import sass

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "step.cubin")
        options = ["-std=c++17", "-O3", machine.for_target(step.target), "-cubin", "-o", str(cubin)]
        done = run_command([nvcc, *options, str(step.path)])
        if done.returncode != 0:
            return [f"nvcc failed: {(done.stderr or done.stdout).strip().splitlines()[0]}"]
        try:
            programs = sass.parse_all(sass.listing(cubin))
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            return [f"nvcc is here, but not what reads its code: {error}"]
    lines = []
    for name, program in programs.items():
        kernel = re.search(r"_cu_[0-9a-f]{8}_?\d+([a-z]\w*)_kernel", name)
        kinds = Counter(instruction.root for instruction in program.instructions)
        notable = ", ".join(f"{kind} {kinds[kind]}" for kind in NOTABLE if kinds[kind])
        of, count = f"sm_{step.target}, {kernel[1] if kernel else name}", len(program.instructions)
        lines.append(f"{of}: {program.registers} registers, {count} instructions ({notable})")
    return lines


def break_it(step: Step, fault: Fault, tell: Tell) -> bool:
    """Plants a fault, and says what finds it; whether something did."""
    text, wrong = step.text(), fault.planted(step.text())
    line = fault.line(text)
    tell(f"planted: {fault.name}, in kernel {fault.kernel(text)}, examples/ladder/{step.file}:{line}")
    tell(f"  forgotten: {fault.what}")
    tell(f"  - {text.splitlines()[line - 1].strip()}")
    tell(f"  + {wrong.splitlines()[line - 1].strip()}")
    for inputs in (Inputs.drawn(SMALL), Inputs.whole_numbers(TINY)):
        if found := machine.hunt(step, inputs, fault):
            who, words = found
            where = "" if words.startswith("kernel ") else f"kernel {fault.kernel(text)}: "
            tell(f"found by {who}: {where}{words}")
            return True
    tell("not found")
    return False


def show_on_gpu(step: Step, tell: Tell) -> None:
    """The layer at a batch, timed; Raises NotHere where there is no GPU that can run it."""
    if not torch.cuda.is_available():
        raise NotHere("--gpu needs an NVIDIA GPU that torch can use, and there is none here")
    inputs = Inputs.drawn(CONV2.of_batch(BATCH))
    ran = machine.run_on_gpu(step, inputs)
    machine.check(step, inputs, ran.outputs)
    tell(f"Step {step.name} on {torch.cuda.get_device_name()}: {inputs.shape}")
    tell(f"  right; {ran.counted['microseconds']:,.1f} us, the best of twenty")
