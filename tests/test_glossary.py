"""docs/glossary.md: every word has one row, and the line of code beside it is there and shows the word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
LINES = [line for line in GLOSSARY.splitlines() if line.startswith("| ") and not line.startswith("| word |")]
ROW = re.compile(r"\| (?P<words>[^|]+) \| [^|]+ \| \[(?P<file>[^\]]+)\]\(\.\./(?P=file)\): `(?P<code>.+)` \|")


def words(row: str) -> list[str]:
    return re.split(r", | ", row)


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split(" | ")[0].removeprefix("| "))
def test_the_line_is_there_and_shows_the_word(line: str) -> None:
    row = ROW.fullmatch(line)
    assert row is not None, f"not `| word | meaning | [file](../file): code |`: {line}"
    file, code = row["file"], row["code"]
    assert any(code in written for written in (ROOT / file).read_text(encoding="utf-8").splitlines()), (file, code)
    shown = [word for word in words(row["words"]) if re.search(rf"(?<![a-z])k?{re.escape(word)}", code, re.I)]
    assert shown, f"{code} shows none of {row['words']}"


def test_every_word_has_one_meaning() -> None:
    rows = [ROW.fullmatch(line) for line in LINES]
    found = [word for row in rows if row is not None for word in row["words"].split(", ")]
    assert len(found) > 50 and sorted(found) == sorted(set(found))
