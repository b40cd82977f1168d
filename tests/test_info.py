"""alexkern.info(): what it says where things are there, where they are missing and where they are broken."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import alexkern
from alexkern import _native, dispatch, processor

info_module = sys.modules["alexkern.info"]  # the package's attribute of that name is the function


def program(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with no CUDA variables and no toolkit in the default place."""
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("alexkern._nvcc.DEFAULT_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return tmp_path


def test_every_operator_has_a_backend_and_a_reason_for_each_other_one() -> None:
    found = alexkern.info()
    assert [service.operator for service in found.services] == list(dispatch.OPERATORS)
    for service in found.services:
        assert {service.backend, *service.why_not} == set(dispatch.PACKAGES)
        assert service.backend not in service.why_not and all(service.why_not.values())


def test_the_report_names_what_was_found_and_is_also_the_repr() -> None:
    found = alexkern.info()
    report = str(found)
    assert repr(found) == report
    assert torch.__version__ in report and alexkern.__version__ in report
    for operator in dispatch.OPERATORS:
        assert operator in report
    assert json.loads(json.dumps(dataclasses.asdict(found)))["versions"] == found.versions


def test_the_version_is_that_of_the_installed_package() -> None:
    try:
        installed = importlib.metadata.version("alexkern")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("alexkern is not installed, only on the path")
    assert alexkern.__version__ == installed


def test_nothing_there(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(empty_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(_native, "native", None)
    monkeypatch.setattr(_native, "why_not", "a reason")
    found = alexkern.info()
    assert (found.gpus, found.driver, found.native) == ((), "none", "none: a reason")
    assert found.snapshots == "on a CPU with oneDNN's convolutions alone: a reason"
    assert found.nvcc.startswith("none (looked at CUDACXX, CUDA_HOME, CUDA_PATH, PATH and ")
    assert "gpu         none\n" in str(found)


def test_gpus_that_only_the_driver_sees(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(empty_path, "nvidia-smi", "printf 'GPU A, 9.0, 570.1\\nGPU B, 8.6, 570.1\\n'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    native = SimpleNamespace(
        __version__="0",
        cuda_version=(13, 1),
        targets=("sm_90a", "compute_80"),
        driver_version=lambda: (12, 8),
        winograd_is_supported=lambda: True,
    )
    monkeypatch.setattr(_native, "native", native)
    found = alexkern.info()
    assert found.gpus == (
        "GPU A, compute capability 9.0 (not usable by this torch)",
        "GPU B, compute capability 8.6 (not usable by this torch)",
    )
    assert found.driver == "570.1 (CUDA 12.8)"
    assert found.native == (
        "0, built with CUDA 13.1 for sm_90a, compute_80; needs a driver for CUDA 13.0 or newer, and the one here is "
        "for 12.8"
    )
    assert found.snapshots == "on a CPU with 3x3 and 5x5 convolutions in fewer products"


def test_gpus_that_torch_uses(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="GPU A", major=9, minor=0, total_memory=141 * 2**30, multi_processor_count=132)
    monkeypatch.setenv("PATH", str(empty_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(_native, "native", None)
    found = alexkern.info()
    assert found.gpus == ("GPU A, compute capability 9.0, 141 GiB, 132 SMs",)
    assert found.driver == "unknown (there is no nvidia-smi to ask)"


def test_the_processor_and_a_torchvision_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "torchvision does not import: operator torchvision::nms does not exist"
    monkeypatch.setattr("alexkern.optional.why_missing", lambda package: reason if package == "torchvision" else None)
    found = alexkern.info()
    assert found.versions["torchvision"] == f"none ({reason})"
    assert f"torchvision none ({reason})\n" in str(found)
    assert f"processor   {processor.name()} (torch uses {torch.backends.cpu.get_cpu_capability()}; " in str(found)
    assert set(processor.flags()) <= set(processor.TELLING_FLAGS)
    assert found.head == str(found).split("\n\n")[0].splitlines()


@pytest.mark.parametrize("says", ["exit 9", "echo 'Failed to initialize NVML'", "echo 'a, b'"])
def test_a_broken_nvidia_smi_counts_as_none(says: str, empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(empty_path, "nvidia-smi", says)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(_native, "native", None)
    found = alexkern.info()
    assert (found.gpus, found.driver) == ((), "none")


def test_nvcc_that_runs_and_one_that_does_not(empty_path: Path) -> None:
    nvcc = program(empty_path, "nvcc", "echo 'Cuda compilation tools, release 12.9, V12.9.86'")
    assert alexkern.info().nvcc == f"{nvcc} (CUDA 12.9)"
    program(empty_path, "nvcc", "exit 3")
    assert alexkern.info().nvcc.startswith(f"{nvcc}, which does not run: ")


def test_why_there_is_no_native_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module, why_not = _native.load("absent_native_module", tmp_path)
    assert module is None and "was not built: nvcc was not found" in why_not

    (tmp_path / "_C.cpython-27.so").touch()
    module, why_not = _native.load("absent_native_module", tmp_path)
    assert module is None and "was built for another Python (_C.cpython-27.so)" in why_not

    (tmp_path / "unloadable_native_module.py").write_text("raise ImportError('libstdc++.so.6: version too old')")
    module, why_not = _native.load("unloadable_native_module", tmp_path)
    assert module is None and why_not == "the native module does not load: libstdc++.so.6: version too old"

    (tmp_path / "loadable_native_module.py").touch()
    module, why_not = _native.load("loadable_native_module", tmp_path)
    assert module is sys.modules.pop("loadable_native_module") and why_not == ""
