"""Every ALEXKERN_* variable, and what may be in it: the one place where they are read.

setup.py runs this file by its path while the package is not there yet: the standard library only.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

Backend = Literal["auto", "cpu", "cuda", "triton", "torch"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
SWITCHABLE = tuple(name for name in BACKENDS if name not in ("auto", "torch"))
CPU_ISAS = ("portable", "avx2", "avx512", "avx512bf16")
MINIMUM_ARCH = 80  # of the kernels: 10 * compute capability
_SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_SWITCHES = f"one of {', '.join(_SWITCH)}"
_EMULATE = {name: "1" if on else "" for name, on in _SWITCH.items()} | {"address": "address", "thread": "thread"}


class Variable(NamedTuple):
    """`parse` raises ValueError for what is not one of `values`; `default` is for a variable that is unset or empty."""

    kind: str
    values: str
    does: str
    parse: Callable[[str], Any]
    default: Any


def _switch(text: str) -> bool:
    return _choice(_SWITCH, text)


def _choice(values: dict[str, Any], text: str) -> Any:
    if text.lower() not in values:
        raise ValueError
    return values[text.lower()]


def _capability(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,2})\.(\d)", text)
    if match is None or int(match[1] + match[2]) < MINIMUM_ARCH:
        raise ValueError
    return int(match[1]), int(match[2])


def _mebibytes(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError
    return int(text)


def _archs(text: str) -> tuple[str, ...]:
    """As nvcc writes them, 90a, each once. torch's +PTX asks for nothing: the PTX of compute_80 always comes along."""
    found = []
    for word in re.split(r"[;,\s]+", text.strip(";, ")):
        match = re.fullmatch(r"(?:(\d{2,3})|(\d{1,2})\.(\d))([af]?)(?:\+PTX)?", word)
        if match is None:
            raise ValueError
        number = match[1] or match[2] + match[3]
        if int(number) < MINIMUM_ARCH:
            raise ValueError
        found.append(number + match[4])
    return tuple(dict.fromkeys(found))


def _kernels(text: str) -> frozenset[str]:
    """As triton and cuda.conv2d_relu; which operators there are is not known here."""
    found = [word for word in re.split(r"[,\s]+", text.lower()) if word]
    if not found or not all(re.fullmatch(rf"({'|'.join(SWITCHABLE)})(\.\w+)?", word) for word in found):
        raise ValueError
    return frozenset(found)


VARIABLES = {
    "ALEXKERN_BACKEND": Variable(
        "choice",
        f"one of {', '.join(BACKENDS)}",
        "the backend that serves calls, until `alexkern.set_backend`",
        partial(_choice, {name: name for name in BACKENDS}),
        "auto",
    ),
    "ALEXKERN_DISABLE": Variable(
        "list",
        f"{' or '.join(SWITCHABLE)}, whole or with an operator, such as cuda.conv2d_relu,triton",
        "kernels that serve no call, asked for by name or not",
        _kernels,
        frozenset(),
    ),
    "ALEXKERN_CPU_ISA": Variable(
        "choice",
        f"one of {', '.join(CPU_ISAS)}",
        "the instruction set of alexkern._cpu's kernels; the best that the processor has where it is not set",
        partial(_choice, {name: name for name in CPU_ISAS}),
        None,
    ),
    "ALEXKERN_CPU_MEMORY": Variable(
        "number",
        "a whole number of MiB",
        "memory that the cpu backend keeps for its next outputs (docs/cpu.md); 1024 where it is not set, 0 for none",
        _mebibytes,
        1024,
    ),
    "ALEXKERN_EMULATE": Variable(
        "choice",
        f"one of {', '.join(_EMULATE)}",
        "the cuda backend serves CPU tensors on the emulator; address and thread are its builds with a sanitizer",
        partial(_choice, _EMULATE),
        "",
    ),
    "ALEXKERN_EMULATE_CAPABILITY": Variable(
        "number",
        "a compute capability of 8.0 or more, such as 9.0",
        "the GPU as which the emulator serves; 8.0 where it is not set",
        _capability,
        (8, 0),
    ),
    "ALEXKERN_SKIP_CPU": Variable(
        "switch", _SWITCHES, "at the install: no alexkern._cpu, although a C++ compiler is there", _switch, False
    ),
    "ALEXKERN_SKIP_CUDA": Variable(
        "switch", _SWITCHES, "at the install: no alexkern._cuda, although nvcc is there", _switch, False
    ),
    "ALEXKERN_REQUIRE_CUDA": Variable(
        "switch", _SWITCHES, "at the install: an error where nvcc is not there", _switch, False
    ),
    "ALEXKERN_CUDA_ARCHS": Variable(
        "list",
        "targets of compute capability 8.0 or more, such as 80;90a or 8.0;9.0a+PTX",
        "at the install: the GPUs to compile for; those that are here, or 80 and 90a, where it is not set",
        _archs,
        (),
    ),
    "ALEXKERN_TUNED": Variable(
        "path",
        "a folder",
        "the tables that `alexkern tune` writes, read before those of the package",
        str,
        None,
    ),
    "ALEXKERN_CACHE": Variable(
        "path",
        "a folder",
        "what is compiled outside of the install; `alexkern` in $XDG_CACHE_HOME or ~/.cache where it is not set",
        str,
        None,
    ),
}


def read(name: str) -> Any:
    """What a variable says, or its default.

    Raises:
        ValueError: it says something else than it may.
    """
    variable, text = VARIABLES[name], os.environ.get(name, "").strip()
    if not text:
        return variable.default
    try:
        return variable.parse(text)
    except ValueError:
        raise ValueError(f"{name} must be {variable.values}, got {text!r}") from None


def check() -> None:
    """Read every variable once, and warn of names that are none.

    Raises:
        ValueError: as `read` does.
    """
    for name in VARIABLES:
        read(name)
    for name in sorted(os.environ):
        if name.startswith("ALEXKERN_") and name not in VARIABLES:
            import difflib  # for this case alone

            nearest = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0)[0]
            warnings.warn(
                f"{name} is no variable of alexkern and changes nothing; the nearest is {nearest}", stacklevel=3
            )


def _check_at_import() -> None:
    """In a command a wrong value is a line on stderr and exit status 2."""
    try:
        check()
    except ValueError as error:
        # Of `python -m` the interpreter says "-m" here until it has found the module, which imports the package.
        program = sys.argv[0] if getattr(sys, "argv", None) else ""
        if program != "-m" and os.path.splitext(os.path.basename(program))[0] != "alexkern":
            raise
        print(f"alexkern: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "alexkern._environment":  # and not where setup.py runs it
    _check_at_import()
