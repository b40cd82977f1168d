"""Finds the fastest configuration of every Triton kernel that the AlexNets launch, on the GPU that is here.

A launcher's choice is searched from the configuration it has: all neighbours of the best so far (one or two fields
halved, doubled, or moved by one) are compiled on all cores, those that spill or do not fit are dropped, the rest are
timed, and the search goes on from the fastest until none is faster. Every choice that is done is written to the table
at once, and skipped when tuning is started again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from alexkern.cost.chips import Chip
from alexkern.files import whole
from alexkern.kernels.config import Key
from alexkern.tools.workloads import Workload

Config = Any  # one of the frozen dataclasses beside the kernels
TUNABLE = ("BLOCK", "TAIL_", "num_", "splits")  # what the names of fields that change no result begin with
LEAST_GAIN = 0.02  # a neighbour has to be faster by this share: less is noise


@dataclass(frozen=True)
class Choice:
    """A configuration that a launcher has chosen, and the call (forward, ...) of the workload that it served.

    others are those that the launcher would have tried beside it.
    """

    key: Key
    default: Config
    workload: Workload
    call: str
    others: tuple[Config, ...] = ()


@dataclass(frozen=True)
class Tuned:
    """The best configuration found, its time and the default's, in seconds, measured side by side."""

    config: Config
    seconds: float
    default_seconds: float


class Bench(Protocol):
    """Where candidates are tried."""

    def usable(self, choice: Choice, configs: Sequence[Config]) -> list[Config]:
        """Those that compile, fit and do not spill."""

    def seconds(self, choice: Choice, configs: Sequence[Config]) -> dict[Config, float]:
        """The time of each, measured side by side; one that fails or gives other results has none."""


def neighbours(config: Config) -> list[Config]:
    """Every configuration that differs in one or two tunable fields by one step."""
    names = [field.name for field in dataclasses.fields(config) if field.name.startswith(TUNABLE)]
    moves = [(name, value) for name in names for value in _steps(name, getattr(config, name))]
    changes = [{name: value} for name, value in moves]
    changes += [{a: x, b: y} for index, (a, x) in enumerate(moves) for b, y in moves[index + 1 :] if a != b]
    return [dataclasses.replace(config, **change) for change in changes]


def _steps(name: str, value: int) -> list[int]:
    if name == "num_stages":
        return [step for step in (value - 1, value + 1) if step >= 1]
    # 0 means that there is none (of a tail, of a kernel that is not used): it has no neighbours.
    return [step for step in (value // 2, value * 2) if step >= 1 and value >= 1]


def search(choice: Choice, bench: Bench) -> Tuned:
    """The fastest configuration that can be reached from the default, or one of the others, by steps that each pay."""
    best = choice.default
    tried = {best}
    beside = choice.others
    while True:
        ring = [config for config in dict.fromkeys([*beside, *neighbours(best)]) if config not in tried]
        tried.update(ring)
        beside = ()
        seconds = bench.seconds(choice, [best, *bench.usable(choice, ring)])
        fastest = min(seconds, key=lambda config: seconds[config], default=best)
        if fastest == best or seconds[fastest] > (1 - LEAST_GAIN) * seconds.get(best, float("inf")):
            break
        best = fastest
    seconds = bench.seconds(choice, [choice.default] if best == choice.default else [choice.default, best])
    if best not in seconds or seconds[best] > seconds.get(choice.default, float("inf")):
        best = choice.default
    return Tuned(best, seconds.get(best, float("nan")), seconds.get(choice.default, float("nan")))


class TunedTable:
    """The file: read if it is there, added to entry by entry, never left half written."""

    def __init__(self, path: Path, device: Chip) -> None:
        """Raises ValueError where the file is no table, or another GPU's."""
        self.path = path
        self.device = device
        self.entries: list[dict[str, Any]] = []
        self.done: set[Key] = set()
        if path.exists():
            try:
                table = json.loads(path.read_text(encoding="utf-8"))
                name, self.entries = table["device"], list(table["entries"])
                self.done = {(entry["operator"], tuple(entry["shape"]), entry["dtype"]) for entry in self.entries}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}: not a table of tuned configurations ({error!r})") from None
            if name != device.name:
                raise ValueError(f"{path}: a table of {name}, and the GPU here is {device.name}; name another file")

    def add(self, choice: Choice, tuned: Tuned) -> None:
        operator, shape, dtype = choice.key
        self.entries.append(
            {
                "backend": "triton",
                "operator": operator,
                "shape": list(shape),
                "dtype": dtype,
                "config": dataclasses.asdict(tuned.config),
                "microseconds": round(tuned.seconds * 1e6, 2),
                "default_microseconds": round(tuned.default_seconds * 1e6, 2),
            }
        )
        self.done.add(choice.key)
        self._write()

    def _write(self) -> None:
        head = {
            "device": self.device.name,
            "capability": list(self.device.capability),
            "num_sms": self.device.num_sms,
            "shared_memory": self.device.shared_memory,
        }
        # An entry a line, so that a change of one is a line in a diff.
        lines = ",\n".join(f"    {json.dumps(entry)}" for entry in self.entries)
        text = json.dumps(head, indent=2)[:-2] + f',\n  "entries": [\n{lines}\n  ]\n}}\n'
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole(self.path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")


def choices(problems: Iterable[Workload], device: Chip) -> list[Choice]:
    """Every choice that the workloads' launchers make, once; nothing is compiled or launched for it."""
    from alexkern.tools import aot

    found: dict[Key, Choice] = {}
    for workload in problems:
        for call, chosen in aot.rehearsed(workload, device).choices.items():
            for key, (default, *others) in chosen.items():
                found.setdefault(key, Choice(key, default, workload, call, tuple(others)))
    return list(found.values())


def tune(pending: Iterable[Choice], bench: Bench, table: TunedTable) -> Iterator[tuple[Choice, Tuned]]:
    """Search each choice that the table does not have, and add what is found to it."""
    for choice in pending:
        if choice.key not in table.done:
            tuned = search(choice, bench)
            table.add(choice, tuned)
            yield choice, tuned
