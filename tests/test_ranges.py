"""Numbers on the command line: every numeric option has a row of the one table, and says what it wanted."""

from __future__ import annotations

import argparse
import math
import re

import pytest

from alexkern import cli
from alexkern.bench.options import OPTIONS
from alexkern.ranges import RANGES, Range


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
    values = [
        "nan",
        "inf",
        "1e400",
        "x",
        "",
        "9" * 5000,
        str(limits.most * 2 + 1),
        "1.5" if limits.kind is int else "1_",
    ]
    for value in values:
        with pytest.raises(SystemExit) as caught:
            cli.main([command, *([flag, *[value] * 3] if count == 3 else [f"{flag}={value}"])])
        (line,) = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2
        assert line == f"alexkern {command}: argument {flag}: wanted {limits}, got {value!r}"
    assert (
        limits(str(limits.kind(limits.least))) == limits.least and limits(str(limits.kind(limits.most))) == limits.most
    )
    assert str(limits) in re.sub(r"\s+", " ", NUMERIC[option].help)


def test_std_of_zero(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["train", "data", "--std", "0", "0", "0"])
    assert caught.value.code == 2
    line = "alexkern train: argument --std: wanted a number from 1e-06 to 1,000, got '0'\n"
    assert capsys.readouterr().err == line
