"""What every configuration is chosen from: a description of the device, and its tables, the user's and the package's.

An operator's file has a frozen dataclass (its Config) and a pure function `configure(problem, device) -> Config`; the
launcher lays the tuned table over it with `choose`. Nothing here times anything: `alexkern tune` writes the tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
import triton.language as tl

from alexkern import _environment
from alexkern._environment import read
from alexkern.cache import usual_folder
from alexkern.cost.chips import CHIPS, Chip, here

Key = tuple[str, tuple[int, ...], str]  # operator, shape, dtype ("bfloat16", or "tf32")
Fields = dict[str, int | bool | str]
Table = dict[Key, Fields]
ConfigT = TypeVar("ConfigT")

TABLES = Path(_environment.__file__).parent / "tuned"
MAX_GRID_Z = 65535  # CUDA's limit on a grid's second and third axis; the first has 2**31 - 1
INT32_MAX = 2**31 - 1


# The chips that kernels are compiled ahead of time for, by 10 * major + minor. On a CPU (Triton's interpreter) the
# configurations are those of the first.
TARGETS = {CHIPS[label].target: CHIPS[label] for label in CHIPS if label != "H200"}


@functools.cache
def describe(device: torch.device) -> Chip:
    """What a torch device is, or is taken for; it is asked for once."""
    if _rehearsal is not None:
        return _rehearsal.device
    if device.type != "cuda":
        return TARGETS[80]
    return here(torch.cuda.current_device() if device.index is None else device.index)


def table_path(device_name: str, directory: Path = TABLES) -> Path:
    """Where the table of a GPU lies: "NVIDIA H200" has nvidia-h200.json."""
    return directory / (re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") + ".json")


def read_table(path: Path) -> Table:
    """The Triton entries of a table; none where there is no such file.

    A table is {"device": name, "entries": [{"backend", "operator", "shape", "dtype", "config"}, ...]}: the shape is a
    list of ints, as the operator's problem gives it, and config an object of that operator's Config fields.

    Raises:
        ValueError: the file is not such a table; the message names the file and the entry.
    """
    if not path.is_file():
        return {}
    try:
        entries = list(json.loads(path.read_text(encoding="utf-8"))["entries"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: no table of tuned configurations ({error!r}); `alexkern tune` writes one") from None
    table: Table = {}
    for number, entry in enumerate(entries):
        try:
            if entry["backend"] == "triton":
                key = (str(entry["operator"]), tuple(int(size) for size in entry["shape"]), str(entry["dtype"]))
                table[key] = dict(entry["config"])
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: entry {number} must have backend, operator, shape, dtype and config ({error!r})"
            ) from None
    return table


@functools.cache
def table_for(device_name: str) -> Table:
    """The package's table of a GPU, read once a process. `table_for.cache_clear()` forgets it."""
    return read_table(table_path(device_name))


def users_tables() -> Path:
    """Where `alexkern tune` writes: ALEXKERN_TUNED, else `tuned` beside what is compiled."""
    named = read("ALEXKERN_TUNED")
    return Path(named).absolute() if named else usual_folder() / "tuned"


@functools.cache
def users_table_for(device_name: str) -> Table:
    """The user's table of a GPU, read once a process. A damaged one is as good as none, but for a warning."""
    path = table_path(device_name, users_tables())
    try:
        return read_table(path)
    except (OSError, ValueError) as error:
        _warn_once(path, error)
        return {}


_warned: set[Path] = set()


def _warn_once(path: Path, error: Exception) -> None:
    if path not in _warned:
        _warned.add(path)
        warnings.warn(f"alexkern does without a tuned configuration: {path}: {error}", stacklevel=2)


def choose(
    operator: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: Chip,
    default: ConfigT,
    precision: str = "ieee",
    others: Callable[[], Iterable[ConfigT]] = tuple,
) -> ConfigT:
    """`default` with the fields replaced that the user's table of the device, else the package's, has for this problem.

    float32 products in TF32 (`precision` "tf32") have entries of their own, under the dtype "tf32". `others` are
    configurations that `alexkern tune` should try too, which no small step leads to from the default.
    """
    label = "tf32" if precision == "tf32" else str(dtype).removeprefix("torch.")
    key = (operator, tuple(shape), label)
    rehearsed = _rehearsal.table.get(key) if _rehearsal is not None else None
    chosen = None if rehearsed else _users_choice(key, device, default)
    if chosen is None:
        chosen = overlay(operator, rehearsed or table_for(device.name).get(key, {}), default)
    if _rehearsal is not None:
        _rehearsal.choices[key] = [chosen, *others()]
    return chosen


def _users_choice(key: Key, device: Chip, default: ConfigT) -> ConfigT | None:
    fields = users_table_for(device.name).get(key)
    if fields is None:
        return None
    try:
        return overlay(key[0], fields, default)
    except ValueError as error:  # it may be of another version
        _warn_once(table_path(device.name, users_tables()), error)
        return None


def overlay(operator: str, fields: Fields, default: ConfigT) -> ConfigT:
    """`default` with some of its fields replaced; raises ValueError for one that it has not, or not of that type."""
    known = {field.name for field in dataclasses.fields(default)}  # type: ignore[arg-type]
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(
            f"alexkern.{operator}: tuned configuration has {', '.join(unknown)}; {type(default).__name__} has "
            f"{', '.join(sorted(known))}"
        )
    for name, value in fields.items():
        wanted = type(getattr(default, name))
        if type(value) is not wanted:
            raise ValueError(f"alexkern.{operator}: tuned configuration has {name}={value!r}, wanted {wanted.__name__}")
    return dataclasses.replace(default, **fields)  # type: ignore[type-var]


def index_type(*farthest: int) -> Any:
    """The type of places up to these numbers, and a tile beyond the last: int32 where it is enough."""
    return tl.int64 if max(farthest) > INT32_MAX - 2**16 else tl.int32


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The configuration of a kernel in one dimension: BLOCK elements, or runs of channels, a program."""

    BLOCK: int
    num_warps: int


@dataclasses.dataclass
class Rehearsal:
    """The device that every torch device is taken for, entries that come before its table's, and what was chosen.

    choices has the configurations chosen, by key, each followed by the others that are worth a try.
    """

    device: Chip
    table: Table
    choices: dict[Key, list[Any]]


_rehearsal: Rehearsal | None = None


@contextlib.contextmanager
def rehearse(device: Chip, table: Table | None = None) -> Iterator[dict[Key, list[Any]]]:
    """Within the block launches are prepared as on `device`, with `table`'s entries before those of its tuned table.

    Yields Rehearsal.choices, which fills as configurations are chosen. For compiling ahead of time and for tuning: for
    one thread, and every choice made before is forgotten, at the start and at the end.
    """
    global _rehearsal
    before = _rehearsal
    _rehearsal = Rehearsal(device, table or {}, {})
    forget()
    try:
        yield _rehearsal.choices
    finally:
        _rehearsal = before
        forget()


def forget() -> None:
    """Empty every cache in the kernels' modules, so that what they hold is decided anew."""
    for name, module in list(sys.modules.items()):
        if name.startswith("alexkern.kernels"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
