"""One run of the comparison: what is measured when, how long for, and what comes of it."""

from __future__ import annotations

import random
import time
from functools import cached_property
from typing import Any

import torch

from alexkern.bench import record as records
from alexkern.bench import report
from alexkern.bench.ceilings import Ceilings, measure_ceilings
from alexkern.bench.comparison import Comparison, Kind, Outcome, compare
from alexkern.bench.machine import describe_load, describe_machine, machine_facts
from alexkern.bench.options import Options
from alexkern.bench.record import Entry, Record
from alexkern.bench.schedule import Clock, Schedule
from alexkern.bench.summary import render
from alexkern.drawing import NotDrawn
from alexkern.measure.timing import timer_for


class Run:
    """A run's comparisons in the order of their definition, and what came out of each."""

    def __init__(self, options: Options, clock: Clock = time.monotonic) -> None:
        self.options = options
        self.comparisons: dict[str, Comparison] = {}  # by group
        self.selected: dict[str, list[str]] = {}  # by group: the variants that pytest's options leave in
        self.outcomes: dict[str, dict[str, Outcome]] = {}  # by group
        self.load = describe_load()
        self.ceilings: dict[str, Ceilings] = {}  # by arithmetic
        self._schedule = Schedule(options.seconds, clock)
        self._complete = False
        self._undrawn = "the pictures are not drawn: the run was cut off"

    def outcome(self, group: str, variant: str) -> Outcome:
        """A variant's outcome; the first one asked for measures its whole comparison."""
        if group not in self.outcomes:
            self.measure_ceilings()
            self.outcomes[group] = self._compare(self.comparisons[group])
            self._save()
        return self.outcomes[group][variant]

    def measure_ceilings(self) -> None:
        """Once, before anything else is measured, for each arithmetic that this run has comparisons of."""
        for group in self.selected:
            target = self.comparisons[group].target
            if target and target.arithmetic not in self.ceilings:
                self.ceilings[target.arithmetic] = measure_ceilings(
                    target, timer_for(target.device, self.options.clock, False)
                )

    def _compare(self, comparison: Comparison) -> dict[str, Outcome]:
        """All its variants that there is time for."""
        waiting = [self.comparisons[other] for other in self.selected if other not in self.outcomes]
        budget = self._schedule.budget(comparison, waiting, self.ceilings)
        # An overhead is the host's time, wherever the tensors are.
        device = torch.device("cpu") if comparison.kind is Kind.OVERHEAD else self.options.target.device
        timer = timer_for(device, self.options.clock, comparison.graphs)
        return compare(comparison, self.selected[comparison.group], timer, budget, random.Random(comparison.group))

    @property
    def entries(self) -> list[Entry]:
        """Of what is measured so far, in the order of definition."""
        found = []
        for group, comparison in self.comparisons.items():
            if group in self.outcomes:
                target = comparison.target
                ceilings = self.ceilings.get(target.arithmetic) if target else None
                found.append(records.entry(comparison, self.outcomes[group], ceilings))
        return found

    @cached_property
    def facts(self) -> dict[str, Any]:
        return machine_facts(self.options.target)

    @property
    def record(self) -> Record:
        return Record(
            machine=self.facts
            | {"seconds": self.options.seconds, "clock": self.options.clock, "load": self.load or ""},
            ceilings={name: {"flops": found.flops, "bytes": found.bytes} for name, found in self.ceilings.items()},
            entries=tuple(self.entries),
            complete=self._complete,
        )

    def _save(self) -> None:
        if self.options.record:
            report.write(self.record, self.options.record)

    def finish(self) -> None:
        """Says in the record that the run came to its end, and draws its pictures, which no measurement waits for."""
        self._complete = True
        if self.outcomes and self.options.record:
            self._save()
            try:
                report.illustrate(self.record, self.options.record)
                self._undrawn = ""
            except NotDrawn as error:
                self._undrawn = str(error)

    def summary(self, *, color: bool = False) -> str:
        footer = [describe_machine(self.facts)]
        if self.options.clock == "cpu":
            footer.append("CPU time on one thread")
        elif self.load:
            footer.append(self.load)
        if self.options.record:
            footer.append(f"record: {self.options.record}")
            if self._undrawn:
                footer.append(f"{self._undrawn}; later: alexkern bench --report {self.options.record}")
        return render(self.entries, self.record.ceilings, "\n".join(footer), color=color)
