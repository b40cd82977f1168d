"""What `alexkern verify` found here: a file for every chip, driver, torch, Triton and alexkern, in the user's cache.

A record is {"identity": {...}, "operators": {operator: {backend: found}}}, with found =

    {"passed": bool, "worst": largest error over the allowed one, or null, "failure": what is wrong, or null,
     "ms": {dtype: median milliseconds of a forward and backward pass}, "torch_ms": the same of torch's operators}

where dtype is "float32" (no TF32), "tf32", "float16" or "bfloat16", and the times are there on a GPU alone. Whoever
reads one gets what was seen of this very machine and these very sources, or nothing.

The tree may have such a file for a chip, as tuned/verified/nvidia-h200.json: a copy of what `alexkern verify` wrote. It
speaks for every driver, torch and commit, but only of what the user's own record says nothing of.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from alexkern import processor
from alexkern._version import __version__
from alexkern.cache import cache_folder, distrusted, wanted_folder
from alexkern.files import whole

KIND = "verified"
DRIVER = Path("/proc/driver/nvidia/version")
COMMITTED = Path(__file__).parent / "tuned" / "verified"
KERNELS = ("alexkern.kernels", "alexkern.backends")  # packages, and csrc beside them


def known(device: torch.device) -> dict[str, dict[str, Any]]:
    """By operator and backend: what was found of a device here, else what the tree has of its chip."""
    if device.type == "cuda" and not torch.cuda.is_available():  # a fake tensor's
        return {}
    found = (record(device) or {"operators": {}})["operators"]
    tree = committed(_chip(device))
    return {name: tree.get(name, {}) | found.get(name, {}) for name in {**tree, **found}}


def record(device: torch.device) -> dict[str, Any] | None:
    """What was found of a device, as it is here now; None where nothing was. It computes nothing, and never fails."""
    return read(identity(device))


def committed(chip: str) -> dict[str, dict[str, Any]]:
    """What the tree has of a chip, by operator and backend."""
    found = _load(COMMITTED / f"{_slug(chip)}.json")
    return found["operators"] if found is not None and found["identity"].get("chip") == chip else {}


def identity(device: torch.device) -> dict[str, str]:
    """What a record holds for: of any other nothing is known."""
    gpu = device.type == "cuda"
    return {
        "chip": _chip(device),
        "driver": driver() if gpu else "none",
        "torch": str(torch.__version__),
        "triton": _triton(),
        "alexkern": f"{__version__}+{sources()}",
    }


def read(identity: dict[str, str]) -> dict[str, Any] | None:
    """The record of an identity, from a folder that nobody else can write to."""
    path = wanted_folder(KIND) / file_name(identity)
    try:
        found = None if distrusted(path.parent) else _load(path)
    except OSError:
        return None
    return found if found is not None and found["identity"] == identity else None


def _load(path: Path) -> dict[str, Any] | None:
    """A file's record; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    parts = [found.get(key) for key in ("identity", "operators")] if isinstance(found, dict) else [None]
    return found if all(isinstance(part, dict) for part in parts) else None


def write(identity: dict[str, str], operators: dict[str, dict[str, Any]]) -> Path:
    """Add what was found to the record, in the place of what it had of the same operator and backend.

    Raises:
        BackendUnavailable: there is no place for it.
    """
    path = cache_folder(KIND) / file_name(identity)
    before = (read(identity) or {"operators": {}})["operators"]
    together = {name: before.get(name, {}) | operators.get(name, {}) for name in {**before, **operators}}
    with whole(path) as partial:
        text = json.dumps({"identity": identity, "operators": together}, indent=1)
        partial.write_text(f"{text}\n", encoding="utf-8")
    return path


def file_name(identity: dict[str, str]) -> str:
    """As nvidia-h200-0123456789abcdef.json."""
    return f"{_slug(identity['chip'])}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}.json"


def _slug(chip: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-")


def _chip(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor.name()


@functools.cache
def driver() -> str:
    """The NVIDIA driver's version or, where its module does not say, the CUDA version that it supports."""
    try:
        found = re.search(r" (\d{3,}\.\d+(?:\.\d+)?) ", DRIVER.read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found:
        return found[1]
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return "unknown"
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


@functools.cache
def sources() -> str:
    """A digest of all that kernels and their launchers are made of: in a checkout a version says little."""
    found = hashlib.sha256()
    folders = [Path(place) for name in KERNELS for place in _places(name)]
    csrc = Path(__file__).resolve().parents[1] / "csrc"
    for folder in (*folders, csrc / "cpu", csrc / "cuda"):
        for path in sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".h", ".cuh", ".cu", ".cpp")):
            found.update(b"\0%s\0%s" % (path.name.encode(), path.read_bytes()))
    return found.hexdigest()[:16]


def _triton() -> str:
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


def _places(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec else []
