"""The processor: its name, and what of its instruction set matters here."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

# What a reader of a CPU's numbers looks for among its flags.
TELLING_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")


def name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def flags() -> list[str]:
    present = _cpuinfo("flags").split()
    return [flag for flag in TELLING_FLAGS if flag in present]


def describe() -> str:
    """Name, instruction set as torch uses it and as the processor has it, cores."""
    sets = f"torch uses {torch.backends.cpu.get_cpu_capability()}; {' '.join(flags()) or 'flags unknown'}"
    return f"{name()} ({sets}), {os.cpu_count() or 1} cores, {torch.get_num_threads()} threads"


def _cpuinfo(key: str) -> str:
    """The first line of that name, "" where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")
