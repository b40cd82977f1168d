"""What `alexkern verify` found, as it is kept: of one identity, added up, and read from nobody else's folder."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexkern import verified


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXKERN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


IDENTITY = {"chip": "NVIDIA H200", "driver": "580.65.06", "torch": "2.14.1", "triton": "3.8.0", "alexkern": "0.1.0+1"}
RIGHT, WRONG = {"passed": True}, {"passed": False}


def test_a_record_is_of_one_identity_and_adds_up(cache: Path) -> None:
    assert verified.read(IDENTITY) is None and not cache.exists()  # reading makes nothing
    path = verified.write(IDENTITY, {"dropout": {"cuda": WRONG, "triton": RIGHT}})
    assert path.name.startswith("nvidia-h200-")
    assert verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}, "max_pool2d": {"cuda": WRONG}}) == path
    found = verified.read(IDENTITY)
    assert found is not None
    assert found["operators"] == {"dropout": {"cuda": RIGHT, "triton": RIGHT}, "max_pool2d": {"cuda": WRONG}}
    for key in IDENTITY:
        assert verified.read(IDENTITY | {key: "another"}) is None
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    another = IDENTITY | {"chip": "NVIDIA H100"}
    path.rename(path.with_name(verified.file_name(another)))
    assert verified.read(another) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": 1}', "\xff", "[" * 100_000])
def test_a_damaged_record_is_as_good_as_none(text: str) -> None:
    path = verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}})
    path.write_text(text, encoding="latin-1")
    assert verified.read(IDENTITY) is None
    verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}})
    assert verified.read(IDENTITY) is not None


def test_a_record_that_others_can_write_is_not_read() -> None:
    path = verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}})
    path.parent.chmod(0o777)
    assert verified.read(IDENTITY) is None


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:16:28 UTC 2025\nGCC version: 12.3\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (user@host)\n",
    ],
)
def test_the_drivers_version(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(verified, "DRIVER", tmp_path / "version")
    verified.driver.cache_clear()
    assert verified.driver() == "580.65.06"
    verified.driver.cache_clear()


def test_the_drivers_version_where_its_module_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_version(version: Any) -> None:
        version._obj.value = 12080

    monkeypatch.setattr(verified, "DRIVER", tmp_path / "version")
    libraries = {"libcuda.so.1": SimpleNamespace(cuDriverGetVersion=get_version)}
    for known in ("CUDA 12.8", "unknown"):
        monkeypatch.setattr(verified.ctypes, "CDLL", lambda name: libraries.get(name) or open(tmp_path / name))
        verified.driver.cache_clear()
        assert verified.driver() == known
        libraries.clear()
    verified.driver.cache_clear()
