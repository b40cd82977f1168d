"""The record of a run: what was measured, on which machine, as JSON that is complete after every comparison."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexkern.bench.comparison import Comparison, Failure, Kind, Outcome, Subject
from alexkern.bench.work import Ceilings, floor, total
from alexkern.files import whole
from alexkern.measure.timing import differ

NAME = "record.json"
FORMAT = 1


@dataclass(frozen=True)
class Measured:
    """A variant's result in a comparison's base unit: median and quartiles (Samples.quartiles) of `rounds` samples, or
    why there is none.

    On a GPU that is time on the device; latency is the host's, median, by a CUDA graph's replay where `graph` says so.
    """

    name: str
    ours: bool = False
    median: float | None = None
    lower: float | None = None
    upper: float | None = None
    rounds: int = 0
    latency: float | None = None
    graph: bool = False
    kernel: str | None = None  # of ours on a CPU; older records have none
    failure: str | None = None

    def differs_from(self, other: Measured) -> bool:
        """Whether the samples of the two decide which is less: enough of them, and their quartiles lie apart."""
        if self.lower is None or self.upper is None or other.lower is None or other.upper is None:
            return False
        return differ((self.lower, self.upper), (other.lower, other.upper), min(self.rounds, other.rounds))


@dataclass(frozen=True)
class Entry(Subject):
    """One comparison and what came out of it. floor is the time that the run's ceilings allow at best (seconds)."""

    arithmetic: str
    labels: dict[str, str | int]
    variants: tuple[Measured, ...]
    images: int | None = None
    flops: float = 0.0
    bytes: float = 0.0
    floor: float | None = None

    def variant(self, name: str) -> Measured | None:
        return next((variant for variant in self.variants if variant.name == name), None)

    @property
    def ours(self) -> list[Measured]:
        return [variant for variant in self.variants if variant.ours]

    @property
    def best_peer(self) -> Measured | None:
        return min(
            (variant for variant in self.variants if not variant.ours and variant.median is not None),
            key=lambda variant: variant.median or 0.0,
            default=None,
        )


@dataclass(frozen=True)
class Record:
    """A run; `complete` says that it came to its end."""

    machine: dict[str, Any]
    ceilings: dict[str, dict[str, float]]  # by arithmetic: flops and bytes a second
    entries: tuple[Entry, ...]
    complete: bool = False

    @property
    def date(self) -> str:
        return str(self.machine["date"])

    @property
    def device(self) -> str:
        """The GPU's name, or the CPU's."""
        return str(self.machine.get("gpu") or self.machine["cpu"])

    @property
    def on_gpu(self) -> bool:
        return "gpu" in self.machine

    def select(self, arithmetic: str, labels: Mapping[str, str | int]) -> list[Entry]:
        """The entries in one arithmetic that have all of these labels."""
        return [one for one in self.entries if one.arithmetic == arithmetic and labels.items() <= one.labels.items()]


def entry(comparison: Comparison, outcomes: Mapping[str, Outcome], ceilings: Ceilings | None = None) -> Entry:
    """What a record keeps of a comparison."""
    work = total(comparison.work)
    return Entry(
        kind=comparison.kind,
        section=comparison.section,
        what=comparison.what,
        arithmetic=comparison.target.arithmetic if comparison.target else "",
        labels=dict(comparison.labels),
        variants=tuple(
            _measured(variant.name, variant.ours, outcomes[variant.name])
            for variant in comparison.variants
            if variant.name in outcomes
        ),
        images=comparison.images,
        flops=work.flops,
        bytes=work.bytes,
        floor=floor(comparison.work, ceilings) if comparison.work and ceilings else None,
    )


def _measured(name: str, ours: bool, outcome: Outcome) -> Measured:
    if isinstance(outcome, Failure):
        return Measured(name, ours, failure=outcome.reason)
    latency = sorted(outcome.latency)[len(outcome.latency) // 2] if outcome.latency else None
    lower, upper = outcome.quartiles
    rounds = len(outcome.seconds)
    return Measured(name, ours, outcome.median, lower, upper, rounds, latency, outcome.graph, outcome.kernel)


def write(record: Record, folder: Path) -> Path:
    """Replaces the folder's record at once: whoever reads it, also after a crash, finds an old or a new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    content = dataclasses.asdict(record) | {"format": FORMAT}
    for written, one in zip(content["entries"], record.entries, strict=True):
        written["kind"] = one.kind.name
    replace(path, json.dumps(content, indent=1) + "\n")
    return path


def replace(path: Path, text: str) -> None:
    """Writes a file in one step."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read(path: Path) -> Record:
    """The record in a folder, or in a file.

    Raises:
        ValueError: there is none; the message names the file.
    """
    file = path / NAME if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        entries = [
            Entry(
                **one | {"kind": Kind[one["kind"]], "variants": tuple(Measured(**found) for found in one["variants"])}
            )
            for one in content.pop("entries")
        ]
        content.pop("left_out", None)  # which older runs named
        return Record(**content | {"entries": tuple(entries)})
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: no record of a benchmark ({error!r}); `alexkern bench --record` writes one"
        ) from error
