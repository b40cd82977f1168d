"""csrc: no whole number becomes a narrower one unasked.

A count or a place in 32 bits is wrong beyond 2**31 of something alone, which few tests can afford. The compiler sees it
in every kernel.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from alexkern.backends.cuda import emulated

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not there, whose words these are")

CSRC = Path(__file__).resolve().parent.parent / "csrc"
SOURCES = sorted(
    source for room in ("cpu", "cuda") for kind in ("cpp", "cu") for source in CSRC.glob(f"{room}/*/*.{kind}")
)
WORDS = re.compile(
    r"^\S*?([\w.]+:\d+):\d+: warning: conversion from .* to .*\b(?:int|short|char|u?int\d+_t)\b.*$", re.M
)


def narrowings(source: Path) -> set[str]:
    """The lines of a source and of what it includes where a whole number is narrowed without a cast."""
    if source.suffix == ".cu":
        options = emulated._command(source, "1")[len(shlex.split(emulated.compiler())) :]
    else:
        options = ["-std=c++17", "-fopenmp", "-DALEXKERN_ISA=portable", f"-I{CSRC / 'cpu'}"]
    options += ["-fsyntax-only", "-Wconversion", "-Wno-sign-conversion", "-Wno-float-conversion", str(source)]
    done = subprocess.run(["g++", *options], capture_output=True, text=True, check=True)
    return {match[1] for match in WORDS.finditer(done.stderr)}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(CSRC)))
def test_no_number_is_narrowed_unasked(source: Path) -> None:
    assert narrowings(source) == set()


@pytest.mark.parametrize("suffix", ["cpp", "cu"])
def test_what_is_narrowed_is_found(suffix: str, tmp_path: Path) -> None:
    source = tmp_path / f"rows.{suffix}"
    lines = (
        "#include <cstdint>",
        "template <typename T>",
        "std::int64_t of(T rows) {",
        "    const std::int32_t fewer = rows * 2;",
        "    const auto as_many = rows * 2;",
        "    const float some = static_cast<float>(rows);",
        "    return fewer + as_many + static_cast<std::int32_t>(rows) + static_cast<int>(some);",
        "}",
        "template std::int64_t of(std::int64_t);",
    )
    source.write_text("\n".join(lines))
    assert narrowings(source) == {f"rows.{suffix}:4"}
