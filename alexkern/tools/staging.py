"""Runs commands one after the other, each with its share of the time, and keeps what they leave whatever happens later.

tools/chip.py runs this file by its path while the package is not there yet: the standard library only.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GUARD = Path(__file__).with_name("guard.py")
pack: Callable[..., None] = runpy.run_path(str(Path(__file__).with_name("archive.py")))["pack"]
SUMMARY, LOG, OUTPUT = "summary.json", "log.txt", "output.json"
LEAST_S = 5.0  # a stage with less time is not begun
AT_LIMIT, EXIT_INTERRUPTED = 124, 130
# What a second run does not do again, and what of it makes a run fail.
DONE, WRONG = ("passed", "partial", "failed", "limit"), ("failed", "limit", "interrupted")
WIDTH = 100  # of what the table says of a stage


@dataclass(frozen=True)
class Stage:
    """One command of this Python, in a folder of its own in DIR.

    command: its arguments, from that folder and its limit in seconds; says: one line of what lies there, or nothing;
    missing: why it cannot run, from the stages' status so far; open_ended: what it has at its limit is a result too.
    """

    name: str
    share: float  # of the time that is left: its limit
    command: Callable[[Path, float], Sequence[str]]
    says: Callable[[Path], str] = lambda folder: ""
    missing: Callable[[dict[str, str]], str | None] = lambda statuses: None
    environment: Callable[[Path], dict[str, str]] = lambda folder: {}
    open_ended: bool = False
    always: bool = False  # also where an earlier run did it: cheap then, and what it leaves is not in DIR
    json: bool = False  # what it prints, beside its log


def run(stages: Sequence[Stage], out: Path, archive: Path, seconds: float, identity: dict[str, str]) -> int:
    """Run the stages that DIR has no result of; the exit status.

    Raises:
        ValueError: what is in DIR is of something else. One line.
    """
    end = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    before = _read(out / SUMMARY, identity)
    rows = [before.get(stage.name, {"stage": stage.name, "status": "waiting"}) for stage in stages]

    def save() -> None:
        _replace(out / SUMMARY, json.dumps({"identity": identity, "stages": rows}, indent=1) + "\n")

    try:
        for index, stage in enumerate(stages):
            if rows[index]["status"] in DONE and not stage.always:
                continue
            row = rows[index] = {"stage": stage.name, "status": "running"}
            left = end - time.monotonic()
            reason = stage.missing({one["stage"]: one["status"] for one in rows})
            if reason is not None:
                row |= {"status": "skipped", "says": reason}
            elif left < LEAST_S:
                row |= {"status": "waiting", "says": "no time was left"}
            else:
                row["limit"] = round(max(LEAST_S, stage.share * left), 1)
                save()
                print(f"{stage.name}: {row['limit']:.0f} s at most", flush=True)
                row |= _run(stage, out / stage.name, row["limit"])
                print(f"{stage.name}: {row['status']}, {row['seconds']:.0f} s: {row['says']}", flush=True)
            save()
            pack(out, archive)
    except KeyboardInterrupt:
        for row in rows:
            row |= {"status": "interrupted"} if row["status"] == "running" else {}
        save()
        pack(out, archive)
        return EXIT_INTERRUPTED
    finally:
        print("\n".join(("", *table(rows), f"{out / SUMMARY}, {archive}")), flush=True)
    return 1 if any(row["status"] in WRONG for row in rows) else 0


def _run(stage: Stage, folder: Path, limit: float) -> dict[str, Any]:
    """What the summary says of a stage once it is over."""
    folder.mkdir(exist_ok=True)
    start = time.monotonic()
    command = [sys.executable, *stage.command(folder, limit)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", **stage.environment(folder)}
    guard = [sys.executable, "-I", "-S", str(GUARD), str(limit), *command]
    with (folder / LOG).open("ab") as log, (folder / OUTPUT if stage.json else Path(os.devnull)).open("wb") as output:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        # In a session of its own the guard outlives whoever kills this process's group, and ends the command.
        with subprocess.Popen(
            guard, cwd=ROOT, env=environment, stdin=subprocess.PIPE, start_new_session=True,
            stdout=output if stage.json else log, stderr=log,
        ) as running:  # fmt: skip
            try:
                status = running.wait()
            finally:
                assert running.stdin is not None
                running.stdin.close()
                running.wait()  # Popen's own exit would not, behind a KeyboardInterrupt
    try:
        says = _line(stage.says(folder))
    except (OSError, ValueError, LookupError, TypeError) as error:  # it was cut off while it wrote
        says = f"{type(error).__name__} in what it left: {_line(str(error))}"
    found = {"status": verdict(status, says, stage.open_ended), "exit": status}
    says = says or ("" if status == 0 else _line(tail(folder)))
    return found | {"seconds": round(time.monotonic() - start, 1), "says": says}


def verdict(status: int, says: str, open_ended: bool) -> str:
    """What a command's exit status and what it left make of its stage."""
    if status == AT_LIMIT and open_ended and says:
        return "failed" if re.search(r"\b(failed|errors?)\b", says) else "partial"
    return "passed" if status == 0 else "limit" if status == AT_LIMIT else "failed"


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The summary: stage, status, seconds, and what there is to say in a line."""
    cells = [("stage", "status", "seconds", "")]
    cells += [(row["stage"], row["status"], f"{row.get('seconds', 0):.0f}", row.get("says", "")) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip()[: sum(widths[:3]) + 6 + WIDTH] for row in cells]


def said(folder: Path) -> str:
    """What a stage's log has below the command, of its last attempt."""
    return text(folder / LOG).rpartition("\n$ ")[2].partition("\n")[2]


def tail(folder: Path) -> str:
    """The last line of that."""
    return next((line for line in reversed(said(folder).splitlines()) if line.strip()), "")


def text(path: Path) -> str:
    """A file's, or nothing where there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _read(path: Path, identity: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The rows of the run before, by stage."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    others = [key for key in identity if found["identity"].get(key) != identity[key]]
    if others:
        raise ValueError(f"{path} is of other {', '.join(others)} than are here; name another OUT, or remove it")
    return {row["stage"]: row for row in found["stages"]}


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _line(words: str) -> str:
    return " ".join(words.split())
