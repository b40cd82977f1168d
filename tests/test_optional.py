"""Optional packages: where one is missing or broken, whatever it raises, a test is skipped and says why."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.optional import need

BROKEN = {
    "a missing operator": (
        "raise RuntimeError('operator planted::nms does not exist')",
        "operator planted::nms does not exist",
    ),
    "two lines": ("raise OSError('undefined symbol: _ZN2at\\nsee the log')", "undefined symbol: _ZN2at"),
    "no message": ("raise AssertionError", "AssertionError"),
    "a missing dependency": ("import planted_dependency", "No module named 'planted_dependency'"),
    "bad syntax": ("def", "invalid syntax"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_package_skips(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, message = BROKEN[fault]
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("planted", "planted.part"):  # also when it is asked for again
        with pytest.raises(
            pytest.skip.Exception, match=f"^{name} is installed but broken: {re.escape(message)}"
        ) as skip:
            need(name)
        assert "\n" not in str(skip.value) and skip.value.allow_module_level


@pytest.mark.parametrize("name", ["planted_nowhere", "planted_nowhere.part"])
def test_a_missing_package_skips(name: str) -> None:
    with pytest.raises(pytest.skip.Exception, match=f"^{name} is not installed$"):
        need(name)


def test_a_package_that_is_there_is_returned() -> None:
    assert need("math").floor(2.5) == 2
