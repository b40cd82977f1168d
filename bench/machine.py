"""The machine a comparison ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

import alexkern
from alexkern.bench.layers import Target


def machine_facts(target: Target) -> dict[str, str | int]:
    """What a reader needs to judge the numbers, by name."""
    facts: dict[str, str | int] = {
        "alexkern": alexkern.__version__,
        "torch": torch.__version__,
        "dtype": str(target.dtype).removeprefix("torch."),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if target.device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(target.device)
        facts["cuda"] = torch.version.cuda or ""
    return facts


def describe_machine(target: Target) -> str:
    """The same in one line."""
    facts = machine_facts(target)
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != 1 else ''}"
    where = facts["gpu"] if "gpu" in facts else f"{facts['cpu']} ({facts['cpu_capability']}), {threads}"
    return f"{where}, {facts['dtype']}, torch {facts['torch']}, alexkern {facts['alexkern']}"


def describe_load() -> str | None:
    """A warning where others keep the processor busy; to be asked before the comparison does so itself."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= cores:
        return None
    return f"the machine was busy before this run (load {load:.1f} on {cores} cores): expect noise, or use --clock=cpu"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
