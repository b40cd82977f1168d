"""The wrappers of csrc/cuda/ptx with their assembly, as nvcc's preprocessor would hand them to nvcc."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CXX = os.environ.get("CXX", "g++")


@dataclass(frozen=True)
class Operand:
    constraint: str  # "r", "=r", "+f", ...
    expression: str


@dataclass(frozen=True)
class Assembly:
    text: str
    outputs: tuple[Operand, ...]
    inputs: tuple[Operand, ...]
    volatile: bool
    memory: bool  # clobbers it
    condition: str  # of the `if constexpr` that it stands in

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.outputs + self.inputs


@dataclass(frozen=True)
class Wrapper:
    name: str  # with its specialisation: mma_m16n8k16<float16>
    template: tuple[str, ...]
    parameters: tuple[str, ...]
    assembly: tuple[Assembly, ...]
    result: str  # what it returns, empty for nothing
    file: str


def preprocess(header: Path, scratch: Path) -> str:
    """As nvcc sees it: macros expanded, comments gone, of CUDA's and C++'s headers nothing."""
    empty = scratch / "system"
    empty.mkdir(exist_ok=True)
    for one in header.parent.glob("*.cuh"):
        for name in re.findall(r"#include <([\w.]+)>", one.read_text()):
            (empty / name).touch()  # nothing of it matters to the wrappers
    command = [CXX, "-E", "-w", "-nostdinc", f"-I{empty}", "-D__CUDACC__", "-x", "c++", str(header)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def depths(text: str, start: int = 0) -> Iterator[tuple[int, str, int]]:
    """Characters that are in no string, their places, and how many brackets from `start` on are open behind each."""
    depth, quoted = 0, False
    for at in range(start, len(text)):
        if text[at] == '"' and text[at - 1] != "\\":
            quoted = not quoted
        elif not quoted:
            depth += (text[at] in "([{") - (text[at] in ")]}")
            yield at, text[at], depth


def closing(text: str, opening: int) -> int:
    """Where the bracket at `opening` ends."""
    return next(at for at, _, depth in depths(text, opening) if depth == 0)


def split(text: str, separator: str) -> list[str]:
    """At separators outside of brackets and strings."""
    ends = [at for at, character, depth in depths(text) if character == separator and depth == 0]
    starts = [0, *(end + 1 for end in ends)]
    return [text[start:end].strip() for start, end in zip(starts, [*ends, None], strict=True)]


def literal(text: str) -> str:
    """Of C++'s string literals, side by side."""
    pieces = re.findall(r'"((?:[^"\\]|\\.)*)"', text)
    assert re.sub(r'"(?:[^"\\]|\\.)*"', "", text).strip() == "", text
    return "".join(pieces).replace("\\n", "\n")


def operands(text: str) -> tuple[Operand, ...]:
    found = []
    for part in split(text, ","):
        if part:
            constraint, _, expression = part.partition("(")
            found.append(Operand(literal(constraint), expression.rstrip().removesuffix(")").strip()))
    return tuple(found)


def assemblies(body: str) -> tuple[Assembly, ...]:
    found = []
    for match in re.finditer(r"\basm\b\s*(volatile)?\s*\(", body):
        inside = body[match.end() : closing(body, match.end() - 1)]
        text, outputs, inputs, clobbers = (split(inside, ":") + ["", "", ""])[:4]
        if not literal(text):
            continue  # what only the compiler heeds
        condition = re.search(r"if constexpr \(([^()]*)\) \{\s*$", body[: match.start()])
        found.append(
            Assembly(
                literal(text),
                operands(outputs),
                operands(inputs),
                match.group(1) is not None,
                '"memory"' in clobbers,
                condition.group(1) if condition else "",
            )
        )
    return tuple(found)


DEFINITION = re.compile(r"(template <([^<>]*)>\s*)?__device__ __forceinline__ [\w:]+[ &*]+(\w+(?:<\w+>)?)\(")


def wrappers_of(header: Path, scratch: Path) -> list[Wrapper]:
    """All functions of the header, and of what it includes, that have assembly in them."""
    text, found = preprocess(header, scratch), []
    marker = re.compile(r'^# \d+ "([^"]*)".*$', re.M)
    marks = [(mark.end(), Path(mark.group(1)).name) for mark in marker.finditer(text)]
    text = marker.sub(lambda mark: " " * len(mark.group()), text)

    def home(at: int) -> str:
        return [name for end, name in marks if end <= at][-1]

    for match in DEFINITION.finditer(text):
        after = closing(text, match.end() - 1)
        parameters = split(text[match.end() : after], ",")
        rest = text[after + 1 :].lstrip()
        if not rest.startswith("{"):
            continue  # declared, and defined for some types alone
        body = rest[: closing(rest, 0) + 1]
        assembly = assemblies(body)
        if not assembly:
            continue
        names = tuple(
            re.sub(r"\s*=.*", "", re.sub(r"^.*[&*]\)?|\)?\[[^\]]*\]|\)", "", part)).split()[-1]
            for part in parameters
            if part
        )
        template = tuple(part.split()[-1] for part in (match.group(2) or "").split(",") if part.strip())
        returned = re.search(r"return ([^;]*);", body)
        found.append(
            Wrapper(
                match.group(3), template, names, assembly, returned.group(1) if returned else "", home(match.start())
            )
        )
    return found


def read_wrappers(folder: Path, scratch: Path) -> dict[str, Wrapper]:
    """Those of a folder of headers, by name."""
    found: dict[str, Wrapper] = {}
    for header in sorted(folder.glob("*.cuh")):
        found |= {one.name: one for one in wrappers_of(header, scratch) if one.file == header.name}
    return found
