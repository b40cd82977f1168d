"""The machine a comparison ran on."""

from __future__ import annotations

import datetime
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import alexkern
from alexkern import dispatch, optional, processor
from alexkern.bench.layers import Target
from alexkern.ops.registry import OPERATORS

CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem")  # MHz, as nvidia-smi calls them


def machine_facts(target: Target) -> dict[str, Any]:
    """What a reader needs to judge the numbers, by name; the more of it is looked up once a run."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "alexkern": alexkern.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": processor.name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_flags": processor.flags(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }
    if target.device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(target.device)
        facts["cuda"] = torch.version.cuda or ""
        facts["cudnn"] = str(torch.backends.cudnn.version())
        facts.update(_driver_and_clocks(target.device.index or 0))
        facts["triton"] = optional.version("triton")
        facts["auto"] = {
            f"{one.operator} {name}".rstrip(): one.backend
            for one in dispatch.explain(OPERATORS, target.device)
            for name in one.dtypes or ("",)
        }
    return facts


def describe_machine(facts: dict[str, Any]) -> str:
    """The same in one line."""
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != 1 else ''}"
    where = facts["gpu"] if "gpu" in facts else f"{facts['cpu']} ({facts['cpu_capability']}), {threads}"
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    return f"{where}, torch {facts['torch']}, alexkern {facts['alexkern']}{commit}, {facts['date']}"


def describe_load() -> str | None:
    """A warning where others keep the processor busy; to be asked before the comparison does so itself."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= cores:
        return None
    return f"the machine was busy before this run (load {load:.1f} on {cores} cores): expect noise, or use --clock=cpu"


def _commit() -> str:
    """Of the checkout that this is run from, with "+" where files differ from it; "" where it is none."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return ""
    commit = _output(["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"])
    changed = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return f"{commit}+" if commit and changed else commit


def _driver_and_clocks(index: int) -> dict[str, Any]:
    """Of a GPU, by nvidia-smi; nothing where there is none."""
    names = ("driver_version", *CLOCKS)
    query = [f"--id={index}", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    cells = [cell.strip() for cell in _output(["nvidia-smi", *query]).split(",")]
    if len(cells) != len(names):
        return {}
    return {"driver": cells[0], "clocks_mhz": dict(zip(CLOCKS, cells[1:], strict=True))}


def _output(command: list[str]) -> str:
    """What a program prints; "" where it is not there or fails. A hanging driver may not hang the run: 20 s at most."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
