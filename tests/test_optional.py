"""Optional packages: where one is missing or broken, one line says so, and nothing fails for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexkern import optional
from support.optional import need

SOURCES = [
    ("__version__ = '1.2'", None),
    (r"raise RuntimeError('operator x::nms\n  does not exist')", "{} does not import: operator x::nms does not exist"),
    ("import ctypes; ctypes.CDLL('nowhere.so')", "{} does not import: nowhere.so: cannot open shared object file"),
    ("import a_package_that_is_nowhere", "{} does not import: No module named 'a_package_that_is_nowhere'"),
    ("raise ValueError", "{} does not import: ValueError"),
    ("raise ModuleNotFoundError('gone', name=__name__)", "{} is not installed (how to)"),
]


@pytest.mark.parametrize("number", range(len(SOURCES)))
def test_a_package_imports_or_one_line_says_why_not(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, wanted = SOURCES[number]
    name = f"optional_package_{number}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    reason = optional.why_missing(name, "how to")
    if wanted is None:
        assert reason is None and optional.version(name) == "1.2"
    else:
        assert reason is not None and reason.startswith(wanted.format(name)) and "\n" not in reason
        assert optional.version(name).startswith("none (" + wanted.format(name).removesuffix(" (how to)"))


def test_a_broken_package_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"open({str(tmp_path / 'tries')!r}, 'a').write('x')\nraise OSError('broken')"
    (tmp_path / "optional_half.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    assert optional.why_missing("optional_half") == optional.why_missing("optional_half")
    assert (tmp_path / "tries").read_text() == "x"


def test_nothing_to_install_is_nothing_said() -> None:
    assert optional.why_missing("a_package_that_is_nowhere") == "a_package_that_is_nowhere is not installed"


def test_a_test_that_needs_a_package_is_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "optional_broken.py").write_text("raise RuntimeError('operator x::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    for name, reason in (
        ("optional_broken", "optional_broken does not import: operator x::nms does not exist"),
        ("a_package_that_is_nowhere.part", "a_package_that_is_nowhere.part is not installed"),
    ):
        with pytest.raises(pytest.skip.Exception) as skip:
            need(name)
        assert str(skip.value) == reason and skip.value.allow_module_level
    assert need("math").floor(2.5) == 2
