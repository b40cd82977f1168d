"""Ahead of time: what every kernel becomes on a chip that is not here.

    python -m alexkern.tools.aot --target 90 --dtype bfloat16

records what the operators would launch for the AlexNets (their own launchers run, on tensors without memory), compiles
it, and prints registers, local and shared memory, occupancy and the instructions of the main loop. `record` and
`compile` work for any call of any kernel: a launch is compiled with exactly the specialisation that Triton gives it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from alexkern.kernels import why_not_compiled

if __name__ == "__main__" and (reason := why_not_compiled()) is not None:
    print(f"alexkern: {reason}", file=sys.stderr)
    sys.exit(2)

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from alexkern.arithmetic import ARITHMETIC, precision
from alexkern.bench.layers import LAYERS
from alexkern.cache import place_triton_cache
from alexkern.commands import guarded
from alexkern.cost.chips import Chip
from alexkern.cost.model import blocks_per_multiprocessor
from alexkern.kernels.config import TARGETS, Key, Table, forget, rehearse
from alexkern.ops.registry import OPERATORS
from alexkern.tools import sass
from alexkern.tools.workloads import META, Workload, having, workloads


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch as its launcher asked for it: kernel[grid](*args, **kwargs)."""

    kernel: JITFunction
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        return self.kernel[self.grid](*self.args, **self.kwargs)

    @property
    def constants(self) -> dict[str, Any]:
        """The compile-time arguments and launch options by name."""
        named = dict(zip(self.kernel.arg_names, self.args, strict=False)) | self.kwargs
        wanted = {parameter.name for parameter in self.kernel.params if parameter.is_constexpr}
        wanted |= {"num_warps", "num_stages"}
        return {name: value for name, value in named.items() if name in wanted}

    @property
    def tile(self) -> str:
        """Block sizes, warps and stages: "BLOCK_M=128 BLOCK_N=64 num_warps=4"."""
        names = ("BLOCK", "TAIL", "num_")
        return " ".join(f"{name}={value}" for name, value in self.constants.items() if name.startswith(names))


@dataclass(frozen=True, kw_only=True)
class Report(sass.Launched):
    """What one launch compiles to; arithmetic is one of ARITHMETIC."""

    workload: str = ""
    call: str = ""
    arithmetic: str = ""


@dataclass(frozen=True)
class Rehearsed:
    """By the name of each call: its launches, and the configurations chosen for them (see config.Rehearsal)."""

    launches: dict[str, list[Launch]]
    choices: dict[str, dict[Key, list[Any]]]


def record(call: Callable[[], Any], execute: bool = False) -> tuple[list[Launch], Any]:
    """The launches that a call makes, and what it returns; nothing is launched unless `execute` says so."""
    launches: list[Launch] = []
    run = JITFunction.run

    def recording(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        launch = Launch(self, grid, args, kwargs)
        if callable(grid):
            launch = dataclasses.replace(launch, grid=tuple(grid(launch.constants)))
        launches.append(launch)
        return run(self, *args, grid=grid, warmup=warmup, **kwargs) if execute else None

    with mock.patch.object(JITFunction, "run", recording):
        result = call()
    return launches, result


class _Elsewhere:
    """Stands in for Triton's driver: a machine whose one GPU is `target`. Nothing can be launched on it."""

    def __init__(self, target: int) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return -self.target  # Triton keeps what it compiled by device: no real one has this number

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.target, 32)


def compiling_for(target: int) -> AbstractContextManager[Any]:
    """Within the block Triton compiles for compute capability `target` (90 for 9.0), whatever GPU is here."""
    return mock.patch.object(driver, "_active", _Elsewhere(target))


def compile(launch: Launch, target: int) -> Any:
    """The triton CompiledKernel of a launch on a target."""
    with compiling_for(target):
        return launch.kernel.run(*launch.args, grid=launch.grid, warmup=True, **launch.kwargs)


def specialisation(launch: Launch, target: int) -> str:
    """What tells a launch's machine code from others of the same kernel; nothing is compiled for it."""
    keys = []

    def note(*, key: Any, **_: Any) -> bool:
        keys.append(str(key))
        return True  # which tells Triton not to compile

    # An earlier compilation of the same launch would be found before the hook is asked.
    launch.kernel.device_caches.pop(-target, None)
    with mock.patch.object(knobs.runtime, "jit_cache_hook", note):
        compile(launch, target)
    return f"{launch.kernel.cache_key} {keys[0]}"


def report(launch: Launch, target: int) -> Report:
    """Compile a launch and read the machine code. workload, call and arithmetic are left empty."""
    try:
        compiled = compile(launch, target)
    except Exception as error:
        raise RuntimeError(f"{launch.kernel.__name__} ({launch.tile}) does not compile for sm_{target}") from error
    program = sass.disassemble(compiled.asm["cubin"])
    num_warps, shared = compiled.metadata.num_warps, compiled.metadata.shared
    tensor_memory = getattr(compiled.metadata, "tmem_size", None) or 0
    return Report(
        target=target,
        kernel=launch.kernel.__name__,
        tile=launch.tile,
        grid=tuple(launch.grid),
        num_warps=num_warps,
        registers=program.registers,
        shared=shared,
        tensor_memory=tensor_memory,
        blocks=blocks_per_multiprocessor(target, program.registers, shared, num_warps, tensor_memory),
        **sass.counted(program),
    )


def rehearsed(workload: Workload, device: Chip, table: Table | None = None) -> Rehearsed:
    """What a workload would launch on a device whose tuned table has these entries too, by the name of the call."""
    with rehearse(device, table) as chosen, compiling_for(device.target), precision(workload.arithmetic):
        _, calls = record(partial(workload.calls, META))
        launches, choices = {}, {}
        for name, call in calls.items():
            forget()  # for the call's own choices, whatever the setup has chosen
            chosen.clear()
            launches[name], _ = record(call)
            choices[name] = dict(chosen)
    return Rehearsed(launches, choices)


def reports(problems: Iterable[Workload], targets: Sequence[int | Chip], jobs: int = 1) -> Iterator[Report]:
    """A report on everything that the workloads launch; what compiles to the same code is compiled once.

    A target is one of TARGETS, or a chip of its own (for a GPU with a tuned table, say).
    """
    places: list[tuple[int, dict[str, Any]]] = []  # of each report: its task, and what it does not share with others
    tasks: list[Callable[[], Report]] = []
    numbers: dict[tuple[int, str], int] = {}
    for workload in problems:
        for device in (one if isinstance(one, Chip) else TARGETS[one] for one in targets):
            target = device.target
            for call, launches in rehearsed(workload, device).launches.items():
                for launch in launches:
                    number = numbers.setdefault((target, specialisation(launch, target)), len(tasks))
                    if number == len(tasks):
                        tasks.append(partial(report, launch, target))
                    own: dict[str, Any] = {"workload": str(workload), "call": call, "arithmetic": workload.arithmetic}
                    own["grid"] = launch.grid
                    places.append((number, own))
    done: list[Report] = []
    compiled = _run(tasks, jobs)
    for number, own in places:
        if number == len(done):
            done.append(next(compiled))
        yield dataclasses.replace(done[number], **own)


def _run(tasks: list[Callable[[], Report]], jobs: int) -> Iterator[Report]:
    place_triton_cache()
    if jobs == 1:
        yield from (task() for task in tasks)
        return
    # Launches hold functions and tensors, which do not pickle: forked children find them by number.
    global _tasks
    _tasks = tasks
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_run_task, range(len(tasks)))


_tasks: list[Callable[[], Report]] = []


def _run_task(number: int) -> Report:
    return _tasks[number]()


COLUMNS = ("workload", "call", "kernel", "sm", "tile", "registers", "local", "shared", "blocks/SM", "main loop")


def row(report: Report) -> tuple[str, ...]:
    """A report in the words of the table: COLUMNS."""
    kinds = (("LDGSTS", report.copies), ("LDG", report.loads), ("STG", report.stores))
    widest = [f"{name}.{max(widths)}" for name, widths in kinds if widths]
    loop = f"{sum(report.main_loop.values())}/{report.products}" if report.main_loop else "none"
    counts = ", ".join(f"{name} {number}" for name, number in list(report.main_loop.items())[:4])
    return (
        report.workload, report.call, report.kernel, str(report.target), report.tile, str(report.registers),
        str(report.stack + report.local), str(report.shared), str(report.blocks),
        " ".join(part for part in (loop, counts, *widest) if part),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or the reports as JSON, one a line."""
    parser = argparse.ArgumentParser(prog="python -m alexkern.tools.aot", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", type=int, nargs="+", default=[90], choices=sorted(TARGETS), help="default: 90")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], choices=ARITHMETIC, help="default: bfloat16")
    parser.add_argument("--model", nargs="+", default=["alexnet", "alexnet_2012"], choices=sorted(LAYERS))
    parser.add_argument("--operator", nargs="+", default=list(OPERATORS), choices=OPERATORS, help="default: all")
    parser.add_argument("--layer", nargs="+", help="conv1, pool1, ...; default: all")
    parser.add_argument("--batch", type=int, nargs="+", default=[128], help="images; default: 128")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default: one a core")
    parser.add_argument("--json", action="store_true", help="print the whole reports, one JSON object a line")
    args = parser.parse_args(argv)
    problems = workloads(args.model, args.dtype, args.batch, having("triton", args.operator), args.layer)
    if not args.json:
        print(" | ".join(COLUMNS))
    for result in reports(problems, args.target, args.jobs):
        print(json.dumps(dataclasses.asdict(result)) if args.json else " | ".join(row(result)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(guarded("python -m alexkern.tools.aot", main))
