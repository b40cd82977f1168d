"""alexkern.info(): what it says where things are there, where they are missing and where they are broken."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.metadata
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import alexkern
from alexkern import dispatch, processor
from alexkern._sources import digest, not_built
from alexkern.backends import extension
from alexkern.dispatch import Explanation
from alexkern.info import Info
from alexkern.ops.registry import served
from support.pinned import hold

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
    assert [service.operator for service in found.services] == list(served())
    for service in found.services:
        here = set(dispatch.PACKAGES) - ({"cpu"} if torch.cuda.is_available() else set())
        assert {service.backend, *service.why_not} == here
        assert service.backend not in service.why_not and all(service.why_not.values())


def test_the_report_reads_as_is_pinned() -> None:
    """In which a reason stands once."""
    services = [
        Explanation("dropout", "cpu", {"cuda": "not built", "triton": "why: not built"}, ()),
        Explanation("augment", "cpu", {"cuda": "not built", "triton": "why: not built"}, ("float32", "bfloat16")),
        Explanation("max_pool2d", "torch", {"cpu": "it is slow"}, ("float16",)),
    ]
    native = {"_other": "0.1, built by a compiler", "_cpu": "none: skipped", "_cuda": "none: not built"}
    shown = Info({"alexkern": "0.1", "torch": "3"}, "A CPU", (), "none", "no nvcc", native, "alone: not built",
                 "torch's: skipped", tuple(services))  # fmt: skip
    assert repr(shown) == str(shown)
    hold("info", str(shown).splitlines())
    assert dataclasses.replace(shown, gpus=("A", "B")).head[3:5] == ["gpu         A", "gpu         B"]


@pytest.mark.parametrize(
    ("cuda", "hip", "usable", "built"),
    [
        ("13.0", None, True, "built for CUDA 13.0"),
        ("13.0", None, False, "built for CUDA 13.0, which it cannot use here"),
        (None, "7.0", False, "built for ROCm 7.0"),
        (None, None, False, "built without CUDA"),
    ],
)
def test_what_torch_was_built_for(
    cuda: str | None, hip: str | None, usable: bool, built: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    found = info_module._versions()
    assert found["torch"] == f"{torch.__version__} ({built})"
    assert [*found][1:] == ["python", "torch", "triton", "torchvision"]


@pytest.mark.parametrize(
    ("driver", "behind"),
    [(None, ""), ((13, 0), ""), ((13, 1), ""), ((12, 9), ", and the one here is for 12.9")],
)
def test_what_a_native_module_needs(
    driver: tuple[int, int] | None, behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(
        __version__="1.2", cuda_version=(13, 2), targets=("80", "90a"), driver_version=lambda: driver
    )
    monkeypatch.setattr(extension.cuda, "module", module)
    text = "1.2, built with CUDA 13.2 for 80, 90a; needs a driver for CUDA 13.0 or newer"
    assert info_module._cuda_module() == text + behind
    for smi, usable, wanted in (
        ([], True, "unknown (there is no nvidia-smi to ask)"), ([], False, "none"),
        ([["A", "9.0", "580"]], True, "580"),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, "is_available", lambda usable=usable: usable)
        here = f"{'580' if smi else 'present'} (CUDA {driver[0]}.{driver[1]})" if driver else wanted
        assert info_module._driver(smi) == here


@pytest.mark.parametrize(("missing", "pays", "words"), [
    (None, True, "with 3x3 and 5x5 convolutions in fewer products"),
    (None, False, "with oneDNN's convolutions alone: others do not pay with a set"),
    ("not built", True, "with oneDNN's convolutions alone: not built"),
])  # fmt: skip
def test_what_snapshots_compute_on_a_cpu(
    missing: str | None, pays: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = SimpleNamespace(isa=lambda: "a set")
    monkeypatch.setattr(info_module, "cpu", SimpleNamespace(missing=lambda *_: missing, native=lambda: native))
    monkeypatch.setattr(info_module, "measured", lambda: "here")
    monkeypatch.setattr(info_module, "CONVOLUTIONS", {"here": {"packed": ()} if pays else {}})
    assert info_module._snapshots() == f"on a CPU {words}"


def test_the_version_is_that_of_the_installed_package() -> None:
    if "not installed" in info_module.version():
        pytest.skip("alexkern is not installed, only on the path")
    assert alexkern.info().versions["alexkern"] == alexkern.__version__ == importlib.metadata.version("alexkern")


ROOT = Path(alexkern.__path__[0]).resolve().parent


@pytest.mark.parametrize(
    ("found", "installed"),
    [
        ((), False),
        ([("site", "dist-info", "tree")], True),  # editable
        ([("site", "dist-info", "another tree")], False),
        ([("site", "dist-info", None)], False),  # a wheel
        ([("tree", "dist-info", None)], True),
        ([("tree", "egg-info", None)], False),  # what a build left
        ([("tree", "egg-info", None), ("site", "dist-info", "tree")], True),
    ],
)
def test_a_checkout_that_is_not_installed(
    found: list[tuple[str, str, str | None]], installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what lies where on the path, of which kind, and of which tree it is if it is editable."""
    version = alexkern.__version__
    tree, site = tmp_path / "tree", tmp_path / "site"
    (tree / "alexkern").mkdir(parents=True)
    for folder, kind, origin in found:
        metadata = tmp_path / folder / f"alexkern-{version}.{kind}"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Name: alexkern\nVersion: {version}\n")
        if kind == "dist-info":
            (metadata / "RECORD").touch()
        if origin:
            (metadata / "direct_url.json").write_text(json.dumps({"url": (tmp_path / origin).as_uri()}))
    monkeypatch.setattr(info_module, "__file__", str(tree / "alexkern/info.py"))
    monkeypatch.setattr(sys, "path", [str(tree), str(site)])
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    assert info_module.version() == (version if installed else f"{version} (not installed: {tree})")


def test_the_version_stands_in_one_place() -> None:
    if not (ROOT / "setup.py").exists():
        pytest.skip("not a checkout")
    text = f'"{alexkern.__version__}"'
    files = [path for name in ("alexkern", "kernels", "bench", "csrc") for path in (ROOT / name).rglob("*.*")]
    files = [path for path in files if path.suffix in (".py", ".h", ".cpp", ".cu")]
    files += [ROOT / name for name in ("setup.py", "pyproject.toml", "CMakeLists.txt")]
    assert [path for path in files if text in path.read_text()] == [ROOT / "alexkern/_version.py"]


def test_nothing_there(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(empty_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module, reason in ((extension.cpu, "a reason"), (extension.cuda, "another")):
        monkeypatch.setattr(module, "module", None)
        monkeypatch.setattr(module, "why_not", reason)
    found = alexkern.info()
    assert (found.gpus, found.driver) == ((), "none")
    assert found.native == {"_cpu": "none: a reason", "_cuda": "none: another"}
    assert found.snapshots == "on a CPU with oneDNN's convolutions alone: a reason"
    assert found.memory == "torch's: a reason"
    assert found.nvcc.startswith("none (looked at CUDACXX, CUDA_HOME, CUDA_PATH, PATH and ")
    assert "gpu         none\n" in str(found)


def test_gpus_that_only_the_driver_sees(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(empty_path, "nvidia-smi", "printf 'GPU A, 9.0, 570.1\\nGPU B, 8.6, 570.1\\n'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    driver = SimpleNamespace(__version__="0", cuda_version=(13, 1), targets=(), driver_version=lambda: (12, 8))
    monkeypatch.setattr(extension.cuda, "module", driver)
    compiled = {"__version__": "1", "compiler": "GCC 7", "amd": False, "isas": ["portable", "avx2"]}
    native = SimpleNamespace(**compiled, isa=lambda: "avx2", memory_use=lambda: (2**30, 3 * 2**20))
    monkeypatch.setattr(extension.cpu, "module", native)
    found = alexkern.info()
    assert found.gpus == (
        "GPU A, compute capability 9.0 (not usable by this torch)",
        "GPU B, compute capability 8.6 (not usable by this torch)",
    )
    assert found.driver == "570.1 (CUDA 12.8)"
    assert found.native["_cpu"] == "1, built by GCC 7; runs avx2, of portable, avx2"
    assert found.native["_cuda"].endswith("; needs a driver for CUDA 13.0 or newer, and the one here is for 12.8")
    assert found.snapshots == "on a CPU with 3x3 and 5x5 convolutions in fewer products"
    assert found.memory == "at most 1024 MiB kept for outputs on a CPU; 1024 MiB are, 3 MiB are in use"


def test_gpus_that_torch_uses(empty_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(name="GPU A", major=9, minor=0, total_memory=141 * 2**30, multi_processor_count=132)
    monkeypatch.setenv("PATH", str(empty_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(extension.cuda, "module", None)
    found = alexkern.info()
    assert found.gpus == ("GPU A, compute capability 9.0, 141 GiB, 132 SMs",)


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
    monkeypatch.setattr(extension.cuda, "module", None)
    found = alexkern.info()
    assert (found.gpus, found.driver) == ((), "none")


def test_nvcc_that_runs_and_one_that_does_not(empty_path: Path) -> None:
    nvcc = program(empty_path, "nvcc", "echo 'Cuda compilation tools, release 12.9, V12.9.86'")
    assert alexkern.info().nvcc == f"{nvcc} (CUDA 12.9)"
    program(empty_path, "nvcc", "echo 'Cuda compilation tools, release 12.4, V12.4.131'")
    assert alexkern.info().nvcc == f"{nvcc} (CUDA 12.4); {nvcc} is of CUDA 12.4, and the kernels need 12.5 or newer"
    program(empty_path, "nvcc", "exit 3")
    assert alexkern.info().nvcc.startswith(f"{nvcc}, which does not run: ")


def test_why_there_is_no_native_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alexkern, "__path__", [*alexkern.__path__, str(tmp_path)])

    def why_not(name: str) -> str:
        found = extension.Extension(name, tmp_path)
        assert found.module is None
        return found.why_not

    wanted = f"alexkern._absent was not built: {tmp_path} is not from an install; run pip install"
    assert why_not("absent") == wanted
    (tmp_path / "_absent.cpython-27.so").touch()
    assert why_not("absent").endswith(": _absent.cpython-27.so is for another Python; run pip install again")
    not_built(tmp_path, "absent").write_text("ALEXKERN_SKIP_CUDA was set")
    assert why_not("absent").endswith(
        ": at the install ALEXKERN_SKIP_CUDA was set; mend that and run pip install again"
    )

    (tmp_path / "_unloadable.py").write_text("raise ImportError('libstdc++.so.6: version too old')")
    assert why_not("unloadable") == "alexkern._unloadable does not load: libstdc++.so.6: version too old"

    (tmp_path / "_loadable.py").touch()
    found = extension.Extension("loadable", tmp_path)
    assert found.module is sys.modules.pop("alexkern._loadable") and found.why_not == ""
    del alexkern._loadable


def test_a_native_module_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, kernels, emulator = tmp_path / "alexkern", tmp_path / "csrc/cuda/dropout", tmp_path / "csrc/emulator"
    processor = tmp_path / "csrc/cpu"
    for folder in (package, kernels, emulator, processor):
        folder.mkdir(parents=True)
    (tmp_path / "csrc/exports.map").touch()
    for file in (tmp_path / "CMakeLists.txt", kernels / "forward.cu", kernels / "bind.h", emulator / "emulator.h"):
        file.write_text(file.name)

    def load(name: str, sources: str) -> str:
        monkeypatch.setitem(sys.modules, f"alexkern._{name}", SimpleNamespace(sources=sources))
        found = extension.Extension(name, package)
        assert (found.module is None) == bool(found.why_not)
        return found.why_not

    built = digest(tmp_path, "cuda")
    stale = "alexkern._cuda was built from other sources than those beside it: run pip install again"
    assert built is not None and load("cuda", built) == ""
    assert load("cuda", "of another build") == stale
    assert load("cpu", built) != ""
    for folder in (emulator, processor):
        (folder / "emulator.h").write_text("changed, and not in this module")
    assert load("cuda", built) == ""
    (kernels / "new.cu").touch()
    assert load("cuda", built) == stale
    found = {built, digest(tmp_path, "cuda")}
    for name in ("forward.cu", "bind.h", "../../exports.map", "../../../CMakeLists.txt"):
        (kernels / name).write_text("changed")
        found.add(digest(tmp_path, "cuda"))
    assert len(found) == 6  # each counts
