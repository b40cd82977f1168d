"""Builds a step, runs it on the emulator (or a GPU), and holds what it computed to torch."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from alexkern import accuracy
from alexkern._nvcc import find_nvcc
from alexkern.backends.building import digest, locked, make, remove_old
from alexkern.backends.cuda import emulated
from alexkern.cache import cache_folder
from alexkern.commands import EXIT_PARTLY, CommandError
from alexkern.files import whole
from alexkern.geometry import CLIPPED as ALL_CLIPPED

from .faults import Fault
from .steps import FOLDER, Shape, Step

CLIPPED = ALL_CLIPPED[torch.uint8]
# The emulator's builds, how many seeds, and who they are. Nine see all pairs of early and late copies and products.
BUILDS = (("1", 9, "the emulator"), ("thread", 3, "the race detector"))


class Wrong(CommandError):
    """What a step did wrong, in one line: the emulator's words, or where its result is not torch's."""

    def __init__(self, message: str) -> None:
        super().__init__(message, EXIT_PARTLY)


@dataclass(frozen=True)
class Inputs:
    """x (N, H, W, C), w (K, R, S, C) and b (K,), as they lie in memory: float16."""

    shape: Shape
    x: Tensor
    w: Tensor
    b: Tensor

    @classmethod
    def drawn(cls, shape: Shape) -> Inputs:
        """Normal numbers, and filters that keep sums near 1; the same for the same shape."""
        random = torch.Generator().manual_seed(2012)
        x = torch.randn(shape.N, shape.H, shape.W, shape.C, generator=random)
        w = torch.randn(shape.K, shape.R, shape.S, shape.C, generator=random).mul((shape.R * shape.S * shape.C) ** -0.5)
        return cls(shape, x.half(), w.half(), torch.randn(shape.K, generator=random).mul(0.1).half())

    @classmethod
    def whole_numbers(cls, shape: Shape) -> Inputs:
        """A 4 x 4 image and filter 0, in channel 0 alone: what can be checked by hand. Two pixels win the window."""
        x, w = torch.zeros(shape.N, shape.H, shape.W, shape.C), torch.zeros(shape.K, shape.R, shape.S, shape.C)
        x[0, :, :, 0] = torch.tensor([[1, 2, 0, 1], [2, 1, 2, 1], [3, 2, 3, 1], [2, 3, 2, 2]])
        w[0, :, :, 0] = torch.tensor([[0, 1, 0], [1, -2, 1], [0, 1, 0]])
        return cls(shape, x.half(), w.half(), torch.zeros(shape.K).half())


Outputs = dict[str, Tensor]  # conv (N, H, W, K), pooled and place (N, pooled_H, pooled_W, K), those that a step writes


def torchs(inputs: Inputs, dtype: torch.dtype) -> Outputs:
    """The layer in torch's own operators."""
    shape = inputs.shape
    x, w, b = (tensor.to(dtype) for tensor in (inputs.x.permute(0, 3, 1, 2), inputs.w.permute(0, 3, 1, 2), inputs.b))
    conv = F.relu(F.conv2d(x, w, b, padding=(shape.R // 2, shape.S // 2)))
    return {"conv": conv.permute(0, 2, 3, 1), "pooled": F.max_pool2d(conv, 3, 2).permute(0, 2, 3, 1)}


def check(step: Step, inputs: Inputs, found: Outputs) -> None:
    """Raises Wrong where an output breaks alexkern.accuracy's rule, or a window's winner is not the one that won."""
    exact, half = torchs(inputs, torch.float64), torchs(inputs, torch.float16)
    for name in step.writes:
        if name == "place":
            continue
        ours = found[name]
        if not ours.isfinite().all():
            at = (~ours.isfinite()).nonzero()[0].tolist()
            raise Wrong(f"wrong result: {name}{at} is {ours[tuple(at)].item()}")
        error, allowed = accuracy.error_and_allowed(ours, exact[name], half[name])
        if error > allowed:
            at = (ours.double() - exact[name]).abs().flatten().argmax().item()
            index = list(map(int, torch.unravel_index(torch.tensor(at), ours.shape)))
            got, wanted = ours[tuple(index)].item(), exact[name][tuple(index)].item()
            raise Wrong(f"wrong result: {name}{index} is {got:.4g}, wanted is {wanted:.4g}")
    if "place" in step.writes:
        _check_places(exact["conv"], found["pooled"], found["place"])


def _check_places(conv: Tensor, pooled: Tensor, place: Tensor) -> None:
    """A place names the first of the window's largest values, or CLIPPED where that is 0.

    Of values that have been rounded another one may be the largest by a rounding, but not of those that need none.
    """
    height, width = 2 * place.shape[1], 2 * place.shape[2]
    windows = torch.stack([conv[:, r : r + height : 2, s : s + width : 2] for r in range(3) for s in range(3)])
    if torch.equal(conv, conv.half().double()):
        right = place == windows.argmax(0).where(pooled > 0, CLIPPED)
    else:
        named = windows.gather(0, place.long().clamp(max=8)[None])[0]
        near = (named - pooled.double()).abs() <= 2**-9 * named.abs() + 2**-12
        right = torch.where(pooled > 0, (place <= 8) & near, place == CLIPPED)
    if not right.all():
        index = (~right).nonzero()[0].tolist()
        raise Wrong(f"wrong result: place{index} is {place[tuple(index)].item()}, and another pixel won")


@dataclass(frozen=True)
class Ran:
    """What a run computed, and what it counted: the emulator's counters, or microseconds of a GPU."""

    outputs: Outputs
    counted: dict[str, float]


def missing() -> str | None:
    """Why no step can be built here."""
    return emulated.missing_compiler()


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def source(step: Step, fault: Fault | None) -> Path:
    """The step's file, or a copy with a fault in it: messages name the file that was copied, and its lines."""
    if fault is None:
        return step.path
    text = fault.planted(step.text())
    if step.file.endswith(".cu"):
        text = f'#line 1 "examples/ladder/{step.file}"\n{text}'
    path = cache_folder("ladder") / f"{step.path.stem}.{fault.name}-{digest(text)}{step.path.suffix}"
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def build(step: Step, fault: Fault | None = None, name: str = "1") -> Path:
    """The step as a program for the emulator; at once where it was built before.

    Raises:
        RuntimeError: the compiler failed; with its words.
    """
    folder, include = cache_folder("emulator"), f"-I{FOLDER}"
    with locked(folder / "lock"):
        emulators = emulated.objects_of(folder, sorted((emulated.SOURCES / "emulator").glob("*.cpp")), name)
        sources = [source(step, fault), FOLDER / "main.cu"]
        objects = [*emulators, *emulated.objects_of(folder, sources, name, include, headers=[FOLDER / "layer.h"])]
        program = cache_folder("ladder") / f"{step.path.stem}-{digest(*map(str, objects))}.out"
        if not program.exists():
            link = [*shlex.split(emulated.compiler()), "-pthread", *emulated.BUILDS[name].link]
            make([*link, *map(str, objects)], program, "linking a step of the ladder")
            remove_old(program.parent, {program})
    return program


def run(step: Step, inputs: Inputs, fault: Fault | None = None, name: str = "1", seed: int = 0) -> Ran:
    """Raises Wrong with the emulator's words where it found something."""
    if step.file.endswith(".py"):
        return _run_triton(step, inputs, fault)
    ran = _run_program(build(step, fault, name), inputs, seed)
    if conflicts := ran.counted.get("conflicts"):
        raise Wrong(f"bank conflicts: {conflicts:.0f} more passes over the banks than ldmatrix needs")
    return ran


def hunt(step: Step, inputs: Inputs, fault: Fault) -> tuple[str, str] | None:
    """Who finds a fault, and in which words: the emulator in some order of things, or its race detector, or torch."""
    compiled = step.file.endswith(".cu")
    for name, seeds, who in BUILDS if compiled else (("", 1, "torch"),):
        for seed in range(seeds):
            try:
                check(step, inputs, run(step, inputs, fault, name, seed).outputs)
            except Wrong as wrong:
                return f"{who}, seed {seed}" if compiled else who, str(wrong)
    return None


def _run_program(program: Path, inputs: Inputs, seed: int) -> Ran:
    shape = inputs.shape
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "given"), Path(folder, "made")
        given.write_bytes(b"".join(tensor.contiguous().numpy().tobytes() for tensor in (inputs.x, inputs.w, inputs.b)))
        environment = {**os.environ, "EMULATOR_SEED": str(seed), "TSAN_OPTIONS": "exitcode=0"}
        command = [str(program), *map(str, vars(shape).values()), str(given), str(made)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if "unexpected memory mapping" in done.stderr:  # ThreadSanitizer, where the kernel spreads addresses too widely
            command = ["setarch", "-R", *command]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode != 0:
            said = (done.stdout or done.stderr).strip()
            raise Wrong(said.splitlines()[0] if said else f"the program ended with status {done.returncode}")
        counted = {name: float(number) for name, number in re.findall(r"(\S+) ([\d.]+)", done.stdout)}
        return Ran(_split(made.read_bytes(), shape), counted)


def _split(data: bytes, shape: Shape) -> Outputs:
    conv, pooled = (shape.N, shape.H, shape.W, shape.K), (shape.N, shape.pooled_H, shape.pooled_W, shape.K)
    found, at = {}, 0
    for name, sizes, dtype in (
        ("conv", conv, torch.float16),
        ("pooled", pooled, torch.float16),
        ("place", pooled, torch.uint8),
    ):
        count = torch.Size(sizes).numel()
        found[name] = torch.frombuffer(bytearray(data[at : at + count * dtype.itemsize]), dtype=dtype).view(sizes)
        at += count * dtype.itemsize
    return found


def for_target(target: str) -> str:
    """nvcc's option for 80, 90a and the like."""
    return f"-gencode=arch=compute_{target},code=sm_{target}"


def run_on_gpu(step: Step, inputs: Inputs) -> Ran:
    """The same kernels, compiled by nvcc or by Triton, timed.

    Raises:
        RuntimeError: nvcc is missing or fails, or the GPU is not one that the step is for.
    """
    major, minor = torch.cuda.get_device_capability()
    if step.target == "90a" and (major, minor) != (9, 0):
        raise RuntimeError(f"step {step.name} is for compute capability 9.0, and the GPU here has {major}.{minor}")
    if step.file.endswith(".py"):
        if os.environ.get("TRITON_INTERPRET") == "1":
            raise RuntimeError("TRITON_INTERPRET=1 is set, and an interpreter's times say nothing; unset it")
        return _run_triton(step, inputs, None)
    nvcc = find_nvcc()
    if nvcc is None:
        raise RuntimeError("--gpu needs nvcc, which was not found")
    target = "90a" if (major, minor) == (9, 0) else f"{major}{minor}"
    sources = [str(step.path), str(FOLDER / "main.cu")]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "step")
        make([nvcc, "-std=c++17", "-O3", for_target(target), *sources], program, f"compiling step {step.name}")
        return _run_program(program, inputs, 0)


def _run_triton(step: Step, inputs: Inputs, fault: Fault | None) -> Ran:
    path = source(step, fault)
    spec = importlib.util.spec_from_file_location(f"alexkern_ladder_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    device = "cuda" if module.ON_GPU else "cpu"
    given = [tensor.to(device) for tensor in (inputs.x, inputs.w, inputs.b)]
    outputs = module.run(*given)
    counted = {}
    if module.ON_GPU:
        from triton.testing import do_bench

        counted["microseconds"] = 1000 * do_bench(lambda: module.run(*given), return_mode="min")
    return Ran({name: tensor.cpu() for name, tensor in outputs.items()}, counted)
