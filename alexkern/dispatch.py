"""Which backend serves a call.

The setting is one per process: dynamo rejects context variables, and CUDA's backward pass runs on other threads. A call
resolves it once, in the forward, before autograd records anything, and carries the answer to the backward.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from alexkern import trusted
from alexkern._environment import BACKENDS, Backend, read
from alexkern.arithmetic import DTYPES
from alexkern.backends.way import Way
from alexkern.errors import BackendUnavailable

# In the order in which "auto" takes them where nothing is known of their times. Each package has one module an
# operator, with the same forward and backward in it.
PACKAGES = {
    "cpu": "alexkern.backends.cpu",
    "cuda": "alexkern.backends.cuda",
    "triton": "alexkern.kernels",
    "torch": "alexkern.backends.torch",
}

Key = tuple[str, str, torch.device, torch.dtype]

_setting: Backend = read("ALEXKERN_BACKEND")
_resolved: dict[Key, ModuleType] = {}
_by_arithmetic: dict[Key, dict[str, ModuleType]] = {}  # where float32 and TF32 are served by different ones
_warned: set[str] = set()


def set_backend(name: Backend) -> None:
    """Choose the backend of every later call in this process: "auto", "cpu", "cuda", "triton" or "torch"."""
    global _setting
    if name not in BACKENDS:
        raise ValueError(f"alexkern.set_backend: backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    _setting = name


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Choose the backend within a `with` block, for the whole process: "auto", "cpu", "cuda", "triton" or "torch".

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


def is_exporting() -> bool:
    """Whether torch.export is tracing: torch.compile's tracer takes torch 2.11's function of that name for true."""
    return torch.compiler._is_exporting_flag


def resolve(operator: str, input: Tensor) -> ModuleType:
    """The module whose forward and backward serve `operator` on `input`'s device and dtype."""
    key = (_setting, operator, input.device, input.dtype)
    module = _resolved.get(key)
    if module is None:
        modules = _by_arithmetic.get(key) or _decide(key)
        module = modules[_arithmetic(operator, input.dtype)]
    return module


def _decide(key: Key) -> dict[str, ModuleType]:
    """The module for each arithmetic that torch's settings may ask for: they can change between two calls."""
    _, operator, _, dtype = key
    modules = {
        arithmetic: implementation(serving(*key, arithmetic), operator) for arithmetic in _arithmetics(operator, dtype)
    }
    first, *others = modules.values()
    if all(other is first for other in others):
        _resolved[key] = first
    else:
        _by_arithmetic[key] = modules
    return modules


def resolve_name(operator: str, input: Tensor) -> str:
    """The name of the backend that `resolve` picks, in a form that torch.compile can trace."""
    return serving(_setting, operator, input.device, input.dtype)


def left_to_compiler(operator: str, input: Tensor) -> bool:
    """Whether torch.compile is given torch's own operators: what torch serves, and with "auto" all on a CPU."""
    name = resolve_name(operator, input)
    return name == "torch" or (name == "cpu" and _setting == "auto")


def forget() -> None:
    """Decide anew, by what `alexkern verify` has found meanwhile. What torch.compile has traced keeps its backend."""
    trusted.forget()
    _resolved.clear()
    _by_arithmetic.clear()


def implementation(name: str, operator: str) -> ModuleType:
    """A backend's module for an operator."""
    return importlib.import_module(f"{PACKAGES[name]}.{operator}")


def definition(operator: str) -> ModuleType:
    """What an operator is: its module of the torch backend, in operators that torch itself can differentiate."""
    return implementation("torch", operator)


@functools.cache
def ways(layer: str) -> tuple[type[Way], ...]:
    """The backends' ways to run a snapshot's layer, "conv2d" or "linear", in the order in which they are asked."""
    return tuple(way for module in _packed(layer) for way in module.WAYS)


def settled(layer: str, weight: Tensor) -> Tensor:
    """A layer's weight where the backends' ways want it to lie."""
    for module in _packed(layer):
        weight = module.settled(weight)
    return weight


def _packed(layer: str) -> list[ModuleType]:
    names = [f"{package}.packed_{layer}" for package in PACKAGES.values()]
    return [importlib.import_module(name) for name in names if importlib.util.find_spec(name) is not None]


def serving(
    setting: str, operator: str, device: torch.device, dtype: torch.dtype, arithmetic: str | None = None
) -> str:
    """The backend that serves an operator under a setting; raises BackendUnavailable where the one asked for cannot.

    arithmetic: what float32 is multiplied as, "float32" or "tf32"; as torch's settings are now where it is not said.
    """
    if setting != "auto":
        reason = missing(setting, operator, device.type, dtype)
        if reason is not None:
            raise BackendUnavailable(f"alexkern.{operator}: backend {setting!r} is not available: {reason}")
        return setting
    reasons = why_not(operator, device, dtype, arithmetic or _arithmetic(operator, dtype))
    name = _taken(reasons)
    if name == "torch" and device.type == "cuda" and dtype in DTYPES and not trusted.has_passed(operator, device):
        _warn_once(operator, reasons)
    return name


# torch.compiler.assume_constant_result does the same, but imports torch._dynamo (over a second). What the answer
# depends on are the arguments, and dynamo guards those.
serving._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _warn_once(operator: str, reasons: dict[str, str | None]) -> None:
    """Once in a process: what holds for one operator mostly holds for all."""
    if not _warned:
        _warned.add(operator)
        others: dict[str, list[str]] = {}
        for name, reason in reasons.items():
            if reason is not None:
                others.setdefault(reason, []).append(name)
        why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in others.items())
        warnings.warn(f"alexkern.{operator} is served by torch's own operators ({why})", stacklevel=5)


def _arithmetics(operator: str, dtype: torch.dtype) -> tuple[str, ...]:
    """What an operator may be computed in, as `alexkern verify` calls it."""
    name = str(dtype).removeprefix("torch.")
    return (name, "tf32") if dtype == torch.float32 and _precision(operator) is not None else (name,)


def _arithmetic(operator: str, dtype: torch.dtype) -> str:
    """That of them which torch's settings ask for on a GPU."""
    setting = _precision(operator) if dtype == torch.float32 else None
    # As kernels/precision.py reads it.
    if setting is not None and torch._C._get_fp32_precision_getter("cuda", setting) == "tf32":
        return "tf32"
    return str(dtype).removeprefix("torch.")


@functools.cache
def _precision(operator: str) -> str | None:
    """The setting that says whether float32 is multiplied as TF32, of an operator that multiplies matrices."""
    return getattr(definition(operator), "PRECISION", None)


def absent(name: str, operator: str) -> str | None:
    """Why a backend has nothing for an operator wherever it runs, or None where it has a module of its name."""
    package = PACKAGES[name]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(f"{package}.{operator}") is None:
        return f"this version of alexkern has no {name} kernel for {operator}"
    if not read("ALEXKERN_DISABLE").isdisjoint((name, f"{name}.{operator}")):
        return "switched off by ALEXKERN_DISABLE"
    return None


def missing(name: str, operator: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Why a backend cannot serve an operator on a device in a dtype, or None where it can."""
    lacking = absent(name, operator)
    if lacking is not None:
        return lacking
    availability = importlib.import_module(PACKAGES[name])
    reason: str | None = availability.missing(device_type, dtype)
    return reason


def why_not(operator: str, device: torch.device, dtype: torch.dtype, arithmetic: str) -> dict[str, str | None]:
    """For every backend, why "auto" does not take it, and None for the one that it takes. Of cpu a GPU says nothing."""
    names = [name for name in PACKAGES if name != "cpu" or device.type == "cpu"]
    reasons = {name: missing(name, operator, device.type, dtype) for name in names}
    if device.type == "cuda":
        here = [name for name, reason in reasons.items() if reason is None]
        return reasons | trusted.judge(operator, here, device, arithmetic)
    # On a CPU a GPU's kernels run in an interpreter or an emulator: for tests, and only when asked for by name.
    for name in ("cuda", "triton"):
        reasons[name] = reasons[name] or "on a CPU it runs only when asked for by name"
    if reasons.get("cpu", "not one") is None:
        reasons["torch"] = "cpu comes first"
    return reasons


def _taken(reasons: dict[str, str | None]) -> str:
    return next(name for name, reason in reasons.items() if reason is None)


@dataclass(frozen=True)
class Explanation:
    """The backend that "auto" takes for an operator, and why each of the others is not taken.

    dtypes: where that holds ("tf32" in the place of "float32" where torch multiplies so); empty where it holds in all.
    """

    operator: str
    backend: str
    why_not: dict[str, str]
    dtypes: tuple[str, ...] = ()


def explain(operators: Iterable[str], device: torch.device | None = None) -> list[Explanation]:
    """What "auto" takes here for each of the operators, with one Explanation or, on a GPU, some for a few dtypes each.

    float32 is multiplied as torch's settings are now.
    """
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for operator in operators:
        found: dict[tuple[tuple[str, str | None], ...], list[str]] = {}
        for dtype in DTYPES if device.type == "cuda" else DTYPES[:1]:
            arithmetic = _arithmetic(operator, dtype)
            reasons = why_not(operator, device, dtype, arithmetic)
            found.setdefault(tuple(reasons.items()), []).append(arithmetic)
        for items, names in found.items():
            others = {name: reason for name, reason in items if reason is not None}
            dtypes = tuple(names) if len(found) > 1 else ()
            rows.append(Explanation(operator, _taken(dict(items)), others, dtypes))
    return rows


def check_disabled(operators: Iterable[str]) -> None:
    """Warn of what ALEXKERN_DISABLE names that is none of the operators."""
    names = list(operators)
    for word in sorted(read("ALEXKERN_DISABLE")):
        operator = word.partition(".")[2]
        if operator and operator not in names:
            there = ", ".join(names)
            warnings.warn(f"ALEXKERN_DISABLE: {word} switches nothing off: the operators are {there}", stacklevel=2)
