"""What is here: versions, GPUs, driver, compiler, native modules, and which backend serves which operator."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from alexkern import optional, processor
from alexkern._nvcc import PLACES, find_nvcc, too_old
from alexkern._version import __version__
from alexkern.backends import cpu, extension
from alexkern.backends.cpu import memory
from alexkern.backends.cpu.crossovers import CONVOLUTIONS, measured
from alexkern.dispatch import Explanation, explain
from alexkern.ops.registry import served


@dataclass(frozen=True, repr=False)
class Info:
    """What `alexkern.info()` found. Printing it gives a report; dataclasses.asdict gives it as data."""

    versions: dict[str, str]
    processor: str
    gpus: tuple[str, ...]
    driver: str
    nvcc: str
    native: dict[str, str]
    snapshots: str
    memory: str
    services: tuple[Explanation, ...]

    @property
    def head(self) -> list[str]:
        """The lines of the report that are about the machine."""
        rows = [*self.versions.items(), ("processor", self.processor)]
        rows += [("gpu", gpu) for gpu in self.gpus or ("none",)]
        rows += [("driver", self.driver), ("nvcc", self.nvcc), *self.native.items()]
        rows += [("snapshots", self._once(self.snapshots)), ("memory", self._once(self.memory))]
        return [f"{name:<12}{text}" for name, text in rows]

    def __str__(self) -> str:
        lines = self.head
        alike: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}
        for service in self.services:
            where = f" in {', '.join(service.dtypes)}" if service.dtypes else ""
            who = f"{service.operator}{where}"
            alike.setdefault((service.backend, tuple(service.why_not.items())), []).append(who)
        for (backend, why_not), operators in alike.items():
            lines += ["", ", ".join(operators), f"  served by {backend}"]
            lines += [f"  not by {name}: {self._once(reason)}" for name, reason in why_not]
        return "\n".join(lines)

    def _once(self, text: str) -> str:
        """The text without the reasons why there are no native modules, which stand above it."""
        for name, said in self.native.items():
            text = text.replace(said.removeprefix("none: "), f"there is no {name}")
        return text

    __repr__ = __str__


def info() -> Info:
    """What is here: GPU, driver, nvcc, targets built in, which backend serves which operator, and why not the others.

    Starts nvcc and nvidia-smi where they are there, and never fails for what is missing. Print the result, or read
    its fields.
    """
    smi = _nvidia_smi()
    return Info(
        versions=_versions(),
        processor=processor.describe(),
        gpus=_gpus(smi),
        driver=_driver(smi),
        nvcc=_nvcc(),
        native={"_cpu": _cpu_module(), "_cuda": _cuda_module()},
        snapshots=_snapshots(),
        memory=memory.describe(),
        services=tuple(explain(served())),
    )


def _snapshots() -> str:
    reason = cpu.missing("cpu", torch.float32)
    if reason is None and "packed" not in CONVOLUTIONS[measured()]:
        reason = f"others do not pay with {cpu.native().isa()}"
    if reason is None:
        return "on a CPU with 3x3 and 5x5 convolutions in fewer products"
    return f"on a CPU with oneDNN's convolutions alone: {reason}"


def version() -> str:
    """alexkern's version, and where it is if it was never installed."""
    root = Path(__file__).resolve().parents[1]
    for distribution in metadata.distributions(name="alexkern"):
        if distribution.read_text("RECORD") is None:  # what a build leaves in the tree, and no install
            continue
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if Path(str(distribution.locate_file(""))).resolve() == root or origin.get("url") == root.as_uri():
            return __version__
    return f"{__version__} (not installed: {root})"


def _versions() -> dict[str, str]:
    if torch.version.cuda:
        usable = "" if torch.cuda.is_available() else ", which it cannot use here"
        built = f"built for CUDA {torch.version.cuda}{usable}"
    else:
        built = f"built for ROCm {torch.version.hip}" if torch.version.hip else "built without CUDA"
    return {
        "alexkern": version(),
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "torch": f"{torch.__version__} ({built})",
        "triton": optional.version("triton"),
        "torchvision": optional.version("torchvision"),
    }


def _gpus(smi: list[list[str]]) -> tuple[str, ...]:
    """One line a GPU: those that torch uses or, where it uses none, those that the driver reports."""
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return tuple(
            f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB, "
            f"{gpu.multi_processor_count} SMs"
            for gpu in found
        )
    return tuple(f"{name}, compute capability {capability} (not usable by this torch)" for name, capability, _ in smi)


def _driver(smi: list[list[str]]) -> str:
    supported = extension.cuda.module.driver_version() if extension.cuda.module else None
    if not smi and not supported:
        return "unknown (there is no nvidia-smi to ask)" if torch.cuda.is_available() else "none"
    release = smi[0][2] if smi else "present"
    return release + (f" (CUDA {_dotted(supported)})" if supported else "")


def _nvidia_smi() -> list[list[str]]:
    """[name, compute capability, driver version] of each GPU that nvidia-smi reports."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    output = _output([program, "--query-gpu=name,compute_cap,driver_version", "--format=csv,noheader"])
    if isinstance(output, Exception):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
    return [row for row in rows if len(row) == 3]


def _nvcc() -> str:
    program = find_nvcc()
    if program is None:
        return f"none (looked at {PLACES})"
    output = _output([program, "--version"])
    if isinstance(output, Exception):
        return f"{program}, which does not run: {output}"
    release = re.search(r"release ([\d.]+)", output)
    if not release:
        return program
    problem = f"; {too_old(program)}" if too_old(program) else ""
    return f"{program} (CUDA {release[1]}){problem}"


def _cpu_module() -> str:
    if extension.cpu.module is None:
        return f"none: {extension.cpu.why_not}"
    native = cpu.native()
    return f"{native.__version__}, built by {native.compiler}; runs {native.isa()}, of {', '.join(native.isas)}"


def _cuda_module() -> str:
    native = extension.cuda.module
    if native is None:
        return f"none: {extension.cuda.why_not}"
    # Within one major version a module runs on older drivers too, but not below its first release.
    needed = (native.cuda_version[0], 0)
    text = (
        f"{native.__version__}, built with CUDA {_dotted(native.cuda_version)} for {', '.join(native.targets)}; "
        f"needs a driver for CUDA {_dotted(needed)} or newer"
    )
    here = native.driver_version()
    if here is not None and here < needed:
        text += f", and the one here is for {_dotted(here)}"
    return text


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _output(command: list[str]) -> str | Exception:
    """What a program prints, or why it does not run. A hanging driver may not hang the report: 20 s at most."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return error
