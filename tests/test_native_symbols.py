"""Whose CUDA a module calls: what the modules show of it and take, and what a launch for the host's memory reaches."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from alexkern.backends import building, cuda, extension
from alexkern.backends.cuda import dropout, emulated
from alexkern.tools import rehearsal

C_COMPILER = [*shlex.split(emulated.compiler()), "-x", "c"]
ABSENT = [tool for tool in (C_COMPILER[0], "nm") if shutil.which(tool) is None]

pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"{' and '.join(ABSENT)} not found")

OF_CUDA = re.compile(r"cu(da|art)?[A-Z]|nvrtc|nvml")
OF_THE_LOADER = {"dlopen", "dlmopen", "dlsym", "dlvsym"}
OF_A_DRIVER = ("cuInit", "cuGetProcAddress", "cuGetProcAddress_v2", "cuLaunchKernel", "cuLaunchKernelEx")
LAUNCHING = """
import ctypes, importlib.util, sys
runtime, name, path = sys.argv[1:]
ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
spec = importlib.util.spec_from_file_location(name, path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
values, dropped, seed = (ctypes.c_float * 64)(*range(64)), (ctypes.c_float * 64)(), (ctypes.c_longlong * 2)()
if name == "alexkern._cuda":
    print(module.driver_version() != (0, 0))
elif name == "alexkern_emulated":
    module.dropout(0, *map(ctypes.addressof, (values, dropped, seed)), 64, 0, 1.0, 0)
    print(list(dropped) == list(values))
else:
    seen = []
    library = ctypes.CDLL(path)
    listener = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)(lambda *all: seen.append(all))
    library.rehearsal_listen(listener)
    module.dropout(0, *map(ctypes.addressof, (values, dropped, seed)), 64, 0, 1.0, 0)
    library.rehearsal_listen(None)
    print(len(seen) == 1 and not any(dropped))
"""


def rehearsed() -> ModuleType:
    reason = rehearsal.missing()
    return pytest.skip(reason) if reason else rehearsal.load().module


def emulator() -> ModuleType:
    reason = emulated.missing()
    return pytest.skip(reason) if reason else emulated.load()


def compiled() -> ModuleType:
    return pytest.skip(extension.cuda.why_not) if extension.cuda.module is None else extension.cuda.module


def processor() -> ModuleType:
    return pytest.skip(extension.cpu.why_not) if extension.cpu.module is None else extension.cpu.module


MODULES = (rehearsed, emulator, compiled, processor)
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
launching_modules = pytest.mark.parametrize("module", MODULES[:3], ids=lambda module: module.__name__)


def symbols(path: Path | str, *options: str) -> dict[str, str]:
    """By name without its version: the letter of nm, where a capital is seen by other modules, U and w are taken."""
    listed = subprocess.run(["nm", "-P", *options, str(path)], capture_output=True, text=True, check=True).stdout
    found = (line.split() for line in listed.splitlines())
    return {words[0].partition("@")[0]: words[1] for words in found}


@every_module
def test_a_module_shows_its_entry_and_takes_nothing_of_cuda(module: Callable[[], ModuleType]) -> None:
    loaded = module()
    assert loaded.__file__ is not None
    dynamic = symbols(loaded.__file__, "-D")
    taken = {name for name, kind in dynamic.items() if kind in "Uw"}
    entry = f"PyInit_{loaded.__name__.rpartition('.')[2]}"
    listening = {"rehearsal_listen", "rehearsal_launches_return", "rehearsal_driver_is", "rehearsal_questions"}
    assert set(dynamic) - taken == ({entry} | listening if module is rehearsed else {entry})
    assert len(taken) > 50 and not [name for name in taken if OF_CUDA.search(name)]
    if module is not compiled:  # in which NVIDIA's runtime looks for the driver
        assert not taken & OF_THE_LOADER


@launching_modules
def test_a_launch_does_not_reach_a_runtime_that_was_there_first(
    module: Callable[[], ModuleType], tmp_path: Path
) -> None:
    """A runtime, and for the host's memory a driver, that ends the process when any function of it is called."""
    loaded = module()
    assert loaded.__file__ is not None
    if module is emulator and emulated.chosen() != "1":
        pytest.skip("a sanitizer has to be in the process from its start")
    own = {name for name, kind in symbols(loaded.__file__).items() if kind in "TtWw" and OF_CUDA.search(name)}
    if module is not emulator:
        assert {"cudaLaunchKernelExC", "cudaDriverGetVersion", "__cudaRegisterFatBinary"} <= own
    names = sorted(name for name in {*own, *OF_A_DRIVER, "cudaLaunchKernelExC"} if name.isidentifier())
    source, runtime = tmp_path / "runtime.c", tmp_path / "runtime.so"
    ended = 'int {0}(void) {{ fputs("{0} was reached\\n", stderr); abort(); }}'
    source.write_text("\n".join(["#include <stdio.h>", "#include <stdlib.h>", *map(ended.format, names)]))
    soname = "libcudart.so.13" if module is compiled else "libcuda.so.1"
    command = [*C_COMPILER, "-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,-soname,{soname}"]
    subprocess.run([*command, str(source), "-o", str(runtime)], check=True)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", LAUNCHING, str(runtime), loaded.__name__, loaded.__file__],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_no_module_is_loaded_as_another() -> None:
    files = {module.__name__: module.__file__ for module in map(_or_none, MODULES) if module is not None}
    if len(files) < 2:
        pytest.skip("there is at most one module here")
    for name in files:
        for other, path in files.items():
            if other != name:
                with pytest.raises(ImportError, match="PyInit_"):
                    building.load_module(name, Path(str(path)))


def _or_none(module: Callable[[], ModuleType]) -> ModuleType | None:
    try:
        return module()
    except pytest.skip.Exception:
        return None


def test_a_runtime_that_lacks_a_function_is_not_used(tmp_path: Path) -> None:
    """Loaded here, where torch's runtime may be, it would be whole."""
    source, linked = tmp_path / "lacking.c", tmp_path / "lacking.linked"
    source.write_text("int cudaMemcpy(void);\nint PyInit_lacking(void) { return cudaMemcpy(); }\n")
    command = [*C_COMPILER, "-shared", "-fPIC", *building.HIDING, str(source), "-o", str(linked)]
    subprocess.run(command, check=True)
    with pytest.raises(RuntimeError, match=r"the rehearsal's runtime is not whole: .*undefined symbol: cudaMemcpy"):
        rehearsal._load_elsewhere(linked)
    assert not linked.exists()


def test_a_runtime_that_ends_its_process_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (linked := tmp_path / "crashing.linked").touch()
    monkeypatch.setattr(rehearsal, "run", lambda _: subprocess.CompletedProcess([], -11, "", "loading\nnot whole"))
    with pytest.raises(RuntimeError, match="the rehearsal's runtime is not whole: not whole"):
        rehearsal._load_elsewhere(linked)
    assert not linked.exists()


class Untouchable:
    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} of a module that must not be asked")


def refuse() -> ModuleType:
    raise AssertionError("the emulator must not be asked")


def test_a_rehearsal_that_cannot_be_built_launches_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> Path:
        raise RuntimeError("half-way")

    monkeypatch.setattr(extension.cuda, "module", Untouchable())
    monkeypatch.setattr(emulated, "load", refuse)
    monkeypatch.setattr(rehearsal, "missing", lambda: None)
    monkeypatch.setattr(rehearsal, "_build", fail)
    monkeypatch.setattr(rehearsal, "load", rehearsal.load.__wrapped__)
    for context in (rehearsal.rehearsing, rehearsal.launching_nothing):
        with pytest.raises(RuntimeError, match="half-way"), context():
            dropout.forward(torch.ones(4), torch.zeros(2, dtype=torch.int64), 0.5)
    assert emulated.load is refuse


def test_the_hosts_memory_goes_to_the_emulator_and_a_gpus_to_the_compiled_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched: list[tuple[object, ...]] = []
    module = ModuleType("standing_in")
    module.__dict__.update(kernel=lambda *all: launched.append(all), elements={"float32": 3})
    monkeypatch.setattr(extension.cuda, "module", Untouchable())
    with emulated.replaced_by(module):
        assert cuda.compiled(torch.zeros(1)) is module
        cuda.launch("kernel", torch.zeros(1), 7)
    assert launched == [(3, 7, 0)]

    monkeypatch.setattr(emulated, "load", refuse)
    with pytest.raises(RuntimeError, match="cannot serve a tensor on meta: they run on CUDA tensors"):
        cuda.launch("kernel", torch.zeros(1, device="meta"), 7)
    gpu = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32)
    assert isinstance(cuda.compiled(gpu), Untouchable)  # type: ignore[arg-type]
    monkeypatch.setattr(extension.cuda, "module", None)
    monkeypatch.setattr(extension.cuda, "why_not", "alexkern._cuda was not built")
    with pytest.raises(RuntimeError, match="cannot serve a tensor on cuda: alexkern._cuda was not built"):
        cuda.launch("kernel", gpu, 7)  # type: ignore[arg-type]
    assert len(launched) == 1
