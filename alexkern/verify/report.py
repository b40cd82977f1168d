"""What was found: a row for every operator and backend, and one for every probe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from alexkern.console import table

HEADINGS = ("operator", "backend", "checks", "error/allowed", "ms", "torch's", "")


@dataclass
class Row:
    """An operator on a backend. `absent` says why it is not here; failures are lines, of which one is enough."""

    operator: str
    backend: str
    absent: str | None = None
    checks: int = 0
    worst: float | None = None  # error over allowed error
    where: str = ""
    failures: list[str] = field(default_factory=list)
    ms: dict[str, float] = field(default_factory=dict)  # by arithmetic: a forward and backward pass
    torch_ms: dict[str, float] = field(default_factory=dict)

    def add_all(self, messages: Iterable[dict[str, Any]], end: str | None = None) -> None:
        """What a process said of it, and how it stopped if it did."""
        for message in messages:
            if "failure" in message:
                self.failures.append(message["failure"])
            elif "error" in message:
                ratio = message["error"] / message["allowed"]
                self.checks += 1
                if self.worst is None or not ratio <= self.worst:
                    self.worst, self.where = ratio, message["what"]
                if not ratio <= 1:
                    self.failures.append("wrong: {what}: error {error:.2e}, allowed {allowed:.2e}".format(**message))
            else:
                self.ms, self.torch_ms = message["ms"], message["torch_ms"]
        if end is not None:
            self.failures.append(end)

    @property
    def wrong(self) -> list[str]:
        """A line each. What nobody checked did not pass."""
        return self.failures or ([] if self.checks or self.absent is not None else ["nothing was checked"])

    @property
    def passed(self) -> bool:
        return self.absent is None and not self.wrong

    @property
    def verdict(self) -> str:
        if self.absent is not None:
            return f"not here: {self.absent}"
        return "right" if self.passed else f"FAILED: {self.wrong[0]}"

    @property
    def found(self) -> dict[str, Any]:
        """The entry of a record (alexkern/verified.py)."""
        failure = None if self.passed else self.verdict
        worst = self.worst if self.worst is None or self.worst < float("inf") else None
        return {"passed": self.passed, "worst": worst, "failure": failure, "ms": self.ms, "torch_ms": self.torch_ms}


@dataclass(frozen=True)
class Probe:
    """One PTX wrapper, tried by itself. passed is None where it was not tried; what is documented has to pass."""

    what: str
    passed: bool | None
    reason: str = ""
    documented: bool = True

    @property
    def verdict(self) -> str:
        if self.passed is None:
            return f"not tried: {self.reason}"
        if not self.documented:
            return "undocumented: yes" if self.passed else f"undocumented: no ({self.reason})"
        return "right" if self.passed else f"FAILED: {self.reason}"


@dataclass(frozen=True)
class Report:
    identity: dict[str, str]
    probes: Sequence[Probe]
    rows: Sequence[Row]
    seconds: float

    @property
    def failed(self) -> list[str]:
        """One line for everything that is wrong."""
        rows = [f"{row.operator} on {row.backend}: {line}" for row in self.rows for line in row.wrong]
        probes = [f"{one.what}: {one.reason}" for one in self.probes if one.passed is False and one.documented]
        return [*probes, *rows]

    @property
    def operators(self) -> dict[str, dict[str, Any]]:
        """What goes into a record."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            if row.absent is None:
                found.setdefault(row.operator, {})[row.backend] = row.found
        return found

    def as_data(self) -> dict[str, Any]:
        probes = [asdict(probe) for probe in self.probes]
        rows = [{"operator": row.operator, "backend": row.backend, **row.found, "checks": row.checks,
                 "where": row.where, "failures": row.failures, "absent": row.absent} for row in self.rows]  # fmt: skip
        return {"identity": self.identity, "passed": not self.failed, "probes": probes, "rows": rows,
                "seconds": self.seconds}  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{key:<10}{value}" for key, value in self.identity.items()]
        if self.probes:
            lines += ["", *table([("probe", ""), *((probe.what, probe.verdict) for probe in self.probes)])]
        lines += ["", *table([HEADINGS, *(_cells(row) for row in self.rows if row.absent is None)])]
        absent: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.absent is not None:
                absent.setdefault((row.backend, row.absent), []).append(row.operator)
        for (backend, reason), operators in absent.items():
            lines += ["", f"{backend}, {len(operators)} operators: not here: {reason}"]
        return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    worst = "" if row.worst is None else f"{row.worst:.2f}"
    times = [" ".join(f"{value:.3g}" for value in times.values()) for times in (row.ms, row.torch_ms)]
    return (row.operator, row.backend, str(row.checks), worst, *times, row.verdict)
