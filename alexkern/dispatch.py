"""Which backend serves a call.

The setting is one per process: dynamo rejects context variables, and CUDA's backward pass runs on other threads. A call
resolves it once, in the forward, before autograd records anything, and carries the answer to the backward.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor

from alexkern._environment import BACKENDS, Backend, read
from alexkern.errors import BackendUnavailable

# In the order in which "auto" asks them; which of the two GPU backends is faster has not been measured. Each package
# has one module an operator, with the same forward and backward in it.
PACKAGES = {"cuda": "alexkern.backends.cuda", "triton": "alexkern.kernels", "torch": "alexkern.backends.torch"}


_setting: Backend = read("ALEXKERN_BACKEND")
_resolved: dict[tuple[str, str, torch.device, torch.dtype], ModuleType] = {}
_warned: set[str] = set()


def set_backend(name: Backend) -> None:
    """Choose the backend of every later call in this process: "auto", "cuda", "triton" or "torch"."""
    global _setting
    if name not in BACKENDS:
        raise ValueError(f"alexkern.set_backend: backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    _setting = name


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Choose the backend within a `with` block, for the whole process: "auto", "cuda", "triton" or "torch".

    A backward pass uses the backend that its forward used, wherever it runs.
    """
    before = _setting
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def current_backend() -> Backend:
    """The setting in force: "auto" or a backend's name."""
    return _setting


def is_direct(tensor: Tensor) -> bool:
    """Whether a call with this tensor simply runs: nothing traces, transforms, casts or intercepts it."""
    if type(tensor) is not Tensor or torch.compiler.is_compiling():
        return False
    if torch._C._is_any_autocast_enabled() or torch._C._len_torch_dispatch_stack() > 0:
        return False
    return not torch._C._are_functorch_transforms_active()


def resolve(operator: str, input: Tensor) -> ModuleType:
    """The module whose forward and backward serve `operator` on `input`'s device and dtype."""
    key = (_setting, operator, input.device, input.dtype)
    module = _resolved.get(key)
    if module is None:
        name = serving(_setting, operator, input.device.type, input.dtype)
        module = _resolved[key] = implementation(name, operator)
    return module


def resolve_name(operator: str, input: Tensor) -> str:
    """The name of the backend that `resolve` picks, in a form that torch.compile can trace."""
    return serving(_setting, operator, input.device.type, input.dtype)


def implementation(name: str, operator: str) -> ModuleType:
    """A backend's module for an operator."""
    return importlib.import_module(f"{PACKAGES[name]}.{operator}")


def definition(operator: str) -> ModuleType:
    """What an operator is: its module of the torch backend, which also has the composite that torch differentiates."""
    return implementation("torch", operator)


def serving(setting: str, operator: str, device_type: str, dtype: torch.dtype) -> str:
    """The backend that serves an operator under a setting; raises BackendUnavailable where the one asked for cannot."""
    if setting != "auto":
        reason = missing(setting, operator, device_type, dtype)
        if reason is not None:
            raise BackendUnavailable(f"alexkern.{operator}: backend {setting!r} is not available: {reason}")
        return setting
    reasons = why_not(operator, device_type, dtype)
    name = next(name for name, reason in reasons.items() if reason is None)
    if name == "torch" and device_type == "cuda" and dtype != torch.float64:
        _warn_once(operator, "; ".join(f"{other}: {why}" for other, why in reasons.items() if why))
    return name


# torch.compiler.assume_constant_result does the same, but imports torch._dynamo (over a second). What the answer
# depends on are the arguments, and dynamo guards those.
serving._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _warn_once(operator: str, reasons: str) -> None:
    if operator not in _warned:
        _warned.add(operator)
        warnings.warn(f"alexkern.{operator} falls back to torch's own operators ({reasons})", stacklevel=4)


def absent(name: str, operator: str) -> str | None:
    """Why a backend has nothing for an operator wherever it runs, or None where it has a module of its name."""
    package = PACKAGES[name]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(f"{package}.{operator}") is None:
        return f"this version of alexkern has no {name} kernel for {operator}"
    return None


def missing(name: str, operator: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Why a backend cannot serve an operator on a device in a dtype, or None where it can."""
    lacking = absent(name, operator)
    if lacking is not None:
        return lacking
    availability = importlib.import_module(PACKAGES[name])
    reason: str | None = availability.missing(device_type, dtype)
    return reason


def why_not(operator: str, device_type: str, dtype: torch.dtype) -> dict[str, str | None]:
    """For every backend in "auto"'s order, why it does not serve a call, or None where it could."""
    reasons = {name: missing(name, operator, device_type, dtype) for name in PACKAGES}
    if device_type != "cuda":
        # On a CPU the kernels run in an interpreter or an emulator: for tests, and only when asked for by name.
        for name in ("cuda", "triton"):
            reasons[name] = reasons[name] or "on a CPU it runs only when asked for by name"
    return reasons


def explain(operators: Iterable[str], device_type: str | None = None) -> list[tuple[str, str, dict[str, str]]]:
    """For each of the operators: its name, the backend that "auto" picks here, and why each of the others does not."""
    if device_type is None:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for operator in operators:
        reasons = why_not(operator, device_type, torch.float32)
        first = next(name for name, reason in reasons.items() if reason is None)
        others = {name: reason or f"{first} is tried first" for name, reason in reasons.items() if name != first}
        rows.append((operator, first, others))
    return rows
