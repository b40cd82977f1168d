"""What can be typed: every numeric option has a row of the one table, and all have the defaults that are pinned."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from alexkern import cli
from alexkern.bench import static_report
from alexkern.bench.options import OPTIONS
from alexkern.cost import __main__ as cost
from alexkern.ops.registry import OPERATORS
from alexkern.ranges import RANGES, Range
from alexkern.tools import chip, report, worst
from alexkern.training import Settings
from support.optional import need
from support.pinned import hold


def actions() -> list[tuple[str, argparse.Action]]:
    """Every option of every command that takes a value, with the command's name."""
    (commands,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    return [
        (name, action)
        for name, parser in commands.choices.items()
        for action in parser._actions
        if action.option_strings and action.nargs != 0
    ]


NUMERIC = {
    f"{command} {action.option_strings[0]}": action for command, action in actions() if isinstance(action.type, Range)
}


def test_no_option_has_numbers_of_its_own() -> None:
    """A number's type is its row of the table, and every row is some option's."""
    others = [action for _, action in actions() if action.type in (int, float)]
    bench = {option["type"] for option in OPTIONS.values() if isinstance(option.get("type"), Range)}
    assert not others and not any(option.get("type") in (int, float) for option in OPTIONS.values())
    used = {id(action.type) for action in NUMERIC.values()} | {id(limits) for limits in bench}
    assert {id(limits) for limits in RANGES.values()} <= used
    for limits in RANGES.values():
        assert math.isfinite(limits.least) and math.isfinite(limits.most) and limits.least < limits.most


@pytest.mark.parametrize("option", NUMERIC)
def test_out_of_range_is_one_line_and_status_2(option: str, capsys: pytest.CaptureFixture) -> None:
    command, flag = option.split()
    limits, count = NUMERIC[option].type, NUMERIC[option].nargs
    beyond = (limits.kind(limits.least) - 1, limits.most * 2 + 1)
    values = ("nan", "inf", "1e400", "x", "", "9" * 5000, *map(str, beyond), "1.5" if limits.kind is int else "1_")
    for value in values:
        with pytest.raises(SystemExit) as caught:
            cli.main([command, *([flag, *[value] * 3] if count == 3 else [f"{flag}={value}"])])
        (line,) = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2
        assert line == f"alexkern {command}: argument {flag}: wanted {limits}, got {value!r}"
    assert all(limits(str(limits.kind(end))) == end for end in (limits.least, limits.most))
    assert str(limits) in re.sub(r"\s+", " ", NUMERIC[option].help)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, list[argparse.Action]]]:
    """What every command and every program takes; the programs stop where they would parse."""
    need("triton")
    from alexkern.tools import aot

    programs = {"aot": aot, "chip": chip, "cost": cost, "report": report, "static": static_report, "worst": worst}

    def collect() -> dict[str, list[argparse.Action]]:
        (commands,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
        found = {name: parser._actions[1:] for name, parser in commands.choices.items()}  # but --help

        def stop(parser: argparse.ArgumentParser, *_: object) -> None:
            found[name] = parser._actions[1:]
            raise InterruptedError

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            patch.setattr(report, "missing", lambda: None)
            patch.setattr(report.objects, "targets", lambda: ("80", "90a"))
            for name, program in programs.items():  # noqa: B007
                with pytest.raises(InterruptedError):
                    program.main([])
        return found

    return collect


def words(of: Any) -> str:
    """But the operators, which every table of them would have to name."""
    if not isinstance(of, Iterable) or isinstance(of, str):
        return str(of)
    return "operators" if set(of) & {*OPERATORS} else " ".join(map(str, of))


def test_what_is_typed_and_its_defaults_are_those_that_are_pinned(
    typed: Callable[[], dict[str, list[argparse.Action]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On five cores."""
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    lines = []
    for program, found in typed().items():
        for action in found:
            name = words(action.option_strings or [action.dest]) + (" (required)" if action.required else "")
            told = [words(action.default)]
            told += [f"of {words(action.choices)}"] if action.choices else []
            told += [str(action.type)] if isinstance(action.type, Range) else []
            told += [f"{action.nargs!r} values"] if action.nargs not in (None, 0) else []
            told += [f"{action.const!r} where it has none"] if action.nargs == "?" else []
            lines.append(f"{program} {name}: {'; '.join(told)}")
    hold("options", lines)


@pytest.mark.parametrize(("cores", "workers", "jobs"), [(None, 1, 1), (1, 1, 1), (3, 2, 3), (9, 8, 9), (64, 8, 64)])
def test_processes_are_as_many_as_there_are_cores(
    cores: int | None,
    workers: int,
    jobs: int,
    typed: Callable[[], dict[str, list[argparse.Action]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But where images are decoded: one is left, and eight are enough."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    found = {
        (program, action.dest): action.default
        for program, actions in typed().items()
        for action in actions
        if action.dest in ("workers", "jobs")
    }
    wanted = {("train", "workers"): workers, ("evaluate", "workers"): workers}
    assert found == wanted | {(program, "jobs"): jobs for program in ("tune", "aot", "static")}


def test_help_says_the_default_of_a_number() -> None:
    usual = {"train": Settings()}
    for command, action in actions():
        if isinstance(action.type, Range):
            default = getattr(usual.get(command), action.dest, action.default)
            default = words(default) if action.nargs == 3 else default[0] if action.nargs == "+" else default
            wanted = f", {action.type}" if default is None else f"{action.type} (default: {default})"
            assert action.help.endswith(wanted) and not action.help.startswith(","), (command, action.help)
