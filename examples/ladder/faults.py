"""Faults to plant: each is one substitution in one line of a step, and applies exactly once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """`wrong` in place of `right`, in a line of the step; `what` it is that was forgotten."""

    step: str
    name: str
    what: str
    right: str
    wrong: str

    def planted(self, text: str) -> str:
        """The text with the fault in it."""
        found = text.count(self.right)
        if found != 1 or "\n" in self.right + self.wrong:
            raise ValueError(f"fault {self.name} of step {self.step}: {self.right!r} stands there {found} times, wanted is once")
        return text.replace(self.right, self.wrong)

    def line(self, text: str) -> int:
        """The number of the line in which it is planted."""
        return text.count("\n", 0, text.index(self.right)) + 1


FAULTS: tuple[Fault, ...] = (
)
