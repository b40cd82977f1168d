"""What `alexkern verify` found, as it is kept: of one identity, added up, and read from nobody else's folder."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import alexkern
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


DRIVERS = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:16:28 UTC 2025\nGCC version: 12.3\n",
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (user@host)\n",
)


def test_the_drivers_version_is_its_modules_or_else_cudas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_version(version: Any) -> None:
        version._obj.value = 12080

    monkeypatch.setattr(verified, "DRIVER", tmp_path / "version")
    for text in DRIVERS:
        (tmp_path / "version").write_text(text)
        verified.driver.cache_clear()
        assert verified.driver() == "580.65.06"
    (tmp_path / "version").unlink()
    libraries = {"libcuda.so.1": SimpleNamespace(cuDriverGetVersion=get_version)}
    for known in ("CUDA 12.8", "unknown"):
        monkeypatch.setattr(verified.ctypes, "CDLL", lambda name: libraries.get(name) or open(tmp_path / name))
        verified.driver.cache_clear()
        assert verified.driver() == known
        libraries.clear()
    verified.driver.cache_clear()


def test_a_record_is_of_the_sources_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the packages with kernels, and of csrc, by every file that is compiled."""
    for name in verified.KERNELS:
        (place,) = verified._places(name)
        assert Path(place) == Path(str(importlib.import_module(name).__file__)).parent
    assert verified._places("json.decoder") == [] == verified._places("no_such_package_anywhere")
    package = tmp_path / "package"
    monkeypatch.setattr(verified, "_places", lambda name: [str(package / name)])
    monkeypatch.setattr(verified, "__file__", str(tmp_path / "alexkern" / "verified.py"))
    found = []
    for file in ("a.md", *(f"package/{name}/b/a.py" for name in verified.KERNELS), "csrc/cpu/a.h", "csrc/cuda/b/a.cuh",
                 "csrc/cuda/a.cu", "csrc/cpu/a.cpp", "csrc/cpu/a.txt", "csrc/other/a.cpp"):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("a")
        found.append(verified.sources.__wrapped__())
    assert len(set(found)) == 1 + len(verified.KERNELS) + 4 and all(len(one) == 16 for one in found)
    (tmp_path / "csrc" / "cpu" / "a.cpp").write_text("b")
    assert verified.sources.__wrapped__() not in found


@pytest.mark.parametrize("here", [True, False])
def test_the_version_of_triton(here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if not here:
            raise verified.metadata.PackageNotFoundError
        return f"{name} 3"

    monkeypatch.setattr(verified.metadata, "version", version)
    assert verified._triton() == ("triton 3" if here else "none")


def test_what_an_identity_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, {device}")
    monkeypatch.setattr(verified, "driver", lambda: "580")
    monkeypatch.setattr(verified, "sources", lambda: "0123")
    monkeypatch.setattr(verified, "_triton", lambda: "3.8")
    monkeypatch.setattr("alexkern.processor.name", lambda: "a CPU")
    rest = {"torch": torch.__version__, "triton": "3.8", "alexkern": f"{alexkern.__version__}+0123"}
    assert verified.identity(torch.device("cuda")) == {"chip": "a GPU, cuda", "driver": "580", **rest}
    assert verified.identity(torch.device("cpu")) == {"chip": "a CPU", "driver": "none", **rest}
    assert verified.file_name({"chip": "NVIDIA H200 (x)!"}).startswith("nvidia-h200-x-")


def test_what_was_found_here_goes_before_what_the_tree_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr("alexkern.processor.name", lambda: "A CPU")
    monkeypatch.setattr(verified, "COMMITTED", tmp_path)
    assert verified.known(cpu) == {} and verified.record(cpu) is None
    tree = {"identity": {"chip": "A CPU"}, "operators": {"a": {"x": WRONG, "y": WRONG}, "b": {"x": RIGHT}}}
    (tmp_path / "a-cpu.json").write_text(json.dumps(tree))
    assert verified.known(cpu) == verified.committed("A CPU") == tree["operators"]
    assert verified.committed("a cpu") == {}  # whose file has the same name
    verified.write(verified.identity(cpu), {"a": {"y": RIGHT}, "c": {"x": WRONG}})
    assert verified.known(cpu) == {"a": {"x": WRONG, "y": RIGHT}, "b": {"x": RIGHT}, "c": {"x": WRONG}}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert verified.known(torch.device("cuda")) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A CPU")
    assert verified.known(torch.device("cuda")) == tree["operators"]
