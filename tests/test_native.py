"""The cuda backend's Python side: what it says is missing, the emulated module's cache, and how errors come back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import alexkern
from alexkern import dispatch
from alexkern.backends import cuda, extension
from alexkern.backends.cuda import emulated

EMULATED = cuda.missing("cpu", torch.float32) is None
needs_emulator = pytest.mark.skipif(not EMULATED, reason=f"{cuda.missing('cpu', torch.float32)}")


@pytest.fixture
def one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The emulator's sources, replaced by one small file, and a log of the compiler's calls."""
    sources = tmp_path / "csrc"
    (sources / "emulator").mkdir(parents=True)
    (sources / "emulator" / "emulator.h").write_text("int answer();\n")
    (sources / "emulator" / "answer.cpp").write_text('#include "emulator.h"\nint answer() { return 42; }\n')
    (sources / "cuda").mkdir()
    (sources / "cuda" / "bindings.cpp").write_text("int binding() { return 1; }\n")
    wrapper = tmp_path / "compiler"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec g++ "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(emulated, "SOURCES", sources)
    monkeypatch.setenv("CXX", str(wrapper))
    emulated._version.cache_clear()
    yield tmp_path
    emulated._version.cache_clear()


def compiled(folder: Path) -> list[str]:
    """The files that the compiler was called for, and "link"."""
    calls = folder / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    sources = [re.search(r" -c \S*/(\S+)", line) for line in lines]
    return sorted([found[1] for found in sources if found] + ["link" for line in lines if "-shared" in line])


@needs_emulator
def test_only_what_changed_is_compiled_again(one_source: Path) -> None:
    cache, sources = one_source / "cache", emulated.SOURCES
    first = emulated.build(cache)
    assert compiled(one_source) == ["answer.cpp", "bindings.cpp", "link"]
    assert emulated.build(cache) == first and compiled(one_source) == []

    (sources / "emulator" / "answer.cpp").write_text("int answer() { return 43; }\n")
    second = emulated.build(cache)
    assert second != first and second.exists() and first.exists()
    assert compiled(one_source) == ["answer.cpp", "link"]

    os.utime(first, (0, 0))  # what was last used over a month ago goes
    (sources / "emulator" / "emulator.h").write_text("long answer();\n")
    third = emulated.build(cache)
    assert compiled(one_source) == ["answer.cpp", "bindings.cpp", "link"]
    assert third.exists() and second.exists() and not first.exists()


@needs_emulator
def test_a_failed_build_shows_the_compilers_words_and_leaves_nothing(one_source: Path) -> None:
    (emulated.SOURCES / "cuda" / "bindings.cpp").write_text("int binding() { return absent; }\n")
    with pytest.raises(RuntimeError, match=r"for the emulator failed: .*bindings.cpp[\s\S]*absent"):
        emulated.build(one_source / "cache")
    assert not list((one_source / "cache").glob("bindings*")) and not list((one_source / "cache").glob(".*partial*"))


@needs_emulator
def test_processes_that_start_at_once_compile_once(one_source: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from alexkern.backends.cuda import emulated; "
        f"emulated.SOURCES = Path({str(emulated.SOURCES)!r}); "
        f"print(emulated.build(Path({str(one_source / 'cache')!r})))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1] and Path(outputs[0].strip()).exists()
    assert compiled(one_source) == ["answer.cpp", "bindings.cpp", "link"]


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXKERN_EMULATE", "1")
    monkeypatch.setenv("CXX", "/nowhere/g++-99 -m64")
    monkeypatch.setattr(dispatch, "_resolved", {})
    words = r"dropout: backend 'cuda' .* a C\+\+ compiler, and /nowhere/g\+\+-99 -m64 was not found: install"
    with alexkern.backend("cuda"), pytest.raises(alexkern.BackendUnavailable, match=words):
        alexkern.functional.dropout(torch.ones(3))
    emulated._load.cache_clear()
    with pytest.raises(RuntimeError, match="alexkern: the emulator needs a C.. compiler"):
        emulated.load()


def test_without_the_sources_or_pybind11(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", sys.executable)  # some program that is there
    find_spec = emulated.importlib.util.find_spec
    monkeypatch.setattr(
        emulated.importlib.util, "find_spec", lambda name: None if name == "pybind11" else find_spec(name)
    )
    assert "pip install 'alexkern[dev]'" in str(emulated.missing())
    monkeypatch.setattr(emulated, "SOURCES", tmp_path)
    assert f"not at {tmp_path}: use a checkout" in str(emulated.missing())
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "on Linux, not on darwin" in str(emulated.missing())


@pytest.mark.parametrize(
    ("device", "dtype", "built_for", "emulate", "words"),
    [
        ("cpu", torch.float32, "13.0", "", "set ALEXKERN_EMULATE=1"),
        ("cpu", torch.float32, "13.0", "0", "set ALEXKERN_EMULATE=1"),
        ("cpu", torch.float64, "13.0", "1", "not in torch.float64"),
        ("cuda", torch.float64, "13.0", "1", "not in torch.float64"),
        ("xpu", torch.float32, "13.0", "1", "an NVIDIA GPU"),
        ("cuda", torch.float32, None, "1", "a torch built for CUDA"),
        ("cuda", torch.float32, "13.0", "1", "^alexkern._cuda was not built$"),
    ],
)
def test_what_is_missing_is_said(
    device: str, dtype: torch.dtype, built_for: str | None, emulate: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setenv("ALEXKERN_EMULATE", emulate)
    monkeypatch.setattr(extension.cuda, "module", None)
    monkeypatch.setattr(extension.cuda, "why_not", "alexkern._cuda was not built")
    assert re.search(words, str(cuda.missing(device, dtype)))


@pytest.mark.parametrize(
    ("unusable", "driver", "words"),
    [
        ("no GPU", (13, 0), "no GPU"),
        (None, (12, 8), "alexkern._cuda needs a driver for CUDA 13.0, and the one here is for 12.8"),
        (None, (13, 0), None),
        (None, None, None),
    ],
)
def test_what_a_gpu_lacks(
    unusable: str | None, driver: tuple[int, int] | None, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """test_cost.py has what makes a GPU unusable."""
    module = SimpleNamespace(cuda_version=(13, 1), driver_version=lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda, "unusable", lambda _: unusable)
    monkeypatch.setattr(extension.cuda, "module", module)
    assert cuda.missing("cuda", torch.float16) == words


@needs_emulator
@pytest.mark.parametrize(
    ("kernel", "element", "count", "words"),
    [
        ("dropout", 0, 64, r"kernel dropout, block .*out-of-range access"),
        ("linear_relu_dropout_forward", 0, 64, r"kernel linear_relu_dropout_forward, block .*out-of-range access"),
        ("dropout", 0, -(2**13), "kernel dropout.*blocks are wanted"),
        ("dropout", 7, 1, "^no such element type: 7"),
    ],
)
def test_a_fault_is_named(kernel: str, element: int, count: int, words: str) -> None:
    seed = torch.zeros(2, dtype=torch.int64)
    with pytest.raises((RuntimeError, ValueError), match=words):
        getattr(emulated.load(), kernel)(element, 0, 0, seed.data_ptr(), count, 0, 1.0, 0)


def distant(shape: tuple[int, ...], stride: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A tensor whose last elements lie more than 2**31 elements behind its first; memory between is never touched."""
    span = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    assert span > 2**31
    tensor = torch.empty(span, dtype=torch.float16).as_strided(shape, stride)
    return tensor.copy_(torch.randn(shape, generator=generator))


@needs_emulator
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 2), (2, 1)])
@pytest.mark.parametrize("channels", [3, 8])
def test_images_over_2_to_the_31_elements_apart(
    kernel_size: int, stride: int, channels: int, generator: torch.Generator
) -> None:
    """Of any strides, in scalars and in vectors: offsets are 64 bits wide."""
    input = distant((2, channels, 5, 7), (2**31 + 8, 1, 64, 8), generator)
    pooled, offsets = dispatch.implementation("cuda", "max_pool2d").forward(
        input, (kernel_size, kernel_size), (stride, stride), (0, 0), (1, 1), False, True
    )
    assert torch.equal(pooled, F.max_pool2d(input.contiguous(), kernel_size, stride))
    assert offsets.dtype == torch.uint8 and int(offsets.max()) < kernel_size**2


@needs_emulator
@pytest.mark.parametrize(
    ("pooled_vectors", "P", "windows"),
    [
        (2**17 - 1, 27, 1),  # too few threads for strips
        (2**18, 27, 2),
        (2**19, 1, 1),
        (2**19, 6, 3),  # with four there would be two strips as well, less alike
        (2**19, 13, 4),
        (2**30, 1000, 4),
    ],
)
def test_strips_of_pooled_rows(pooled_vectors: int, P: int, windows: int) -> None:
    assert emulated.load().max_pool2d_windows_of_strip(pooled_vectors, P) == windows


@needs_emulator
@pytest.mark.parametrize(
    ("shape", "windows"), [((1, 1, 1031, 1029), 2), ((1, 8, 1031, 1030), 2), ((1, 1, 2063, 1029), 4)], ids=str
)
def test_pooling_in_strips(shape: tuple[int, ...], windows: int, generator: torch.Generator) -> None:
    """Images so large that a thread takes several windows; the last strip of a column is cut short."""
    input = torch.randint(0, 9, shape, generator=generator).half()
    if shape[1] > 1:
        input = input.contiguous(memory_format=torch.channels_last)
    operator, arguments = dispatch.implementation("cuda", "max_pool2d"), ((3, 3), (2, 2), (0, 0), (1, 1), False)
    pooled, offsets = operator.forward(input, *arguments, True)
    wanted, indices = F.max_pool2d(input, 3, 2, return_indices=True)
    vectors = pooled.numel() // (8 if shape[1] > 1 else 1)
    assert emulated.load().max_pool2d_windows_of_strip(vectors, pooled.shape[2]) == windows
    assert pooled.shape[2] % windows != 0
    assert torch.equal(pooled, wanted)
    assert torch.equal(operator.forward(input, *arguments, False)[0], wanted)
    rows, columns = torch.arange(wanted.shape[2]).view(-1, 1) * 2, torch.arange(wanted.shape[3]) * 2
    found = (rows + offsets // 3) * shape[3] + columns + offsets % 3
    assert torch.equal(found, indices)


@pytest.mark.parametrize("current", [0, 1])
def test_a_launch_goes_to_the_tensors_device_and_its_current_stream(
    current: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered: list[int] = []
    launched: list[tuple[object, ...]] = []

    @contextmanager
    def guard(index: int) -> Iterator[None]:
        entered.append(index)
        yield
        entered.append(-index)

    module = ModuleType("standing_in")
    module.__dict__.update(kernel=lambda *all: launched.append(all), elements={"bfloat16": 2})
    monkeypatch.setattr(extension.cuda, "module", module)
    monkeypatch.setattr(torch.cuda, "device", guard)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: current, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 1000 + index, raising=False)
    tensor = SimpleNamespace(device=torch.device("cuda", 1), dtype=torch.bfloat16, get_device=lambda: 1)
    cuda.launch("kernel", tensor, 7, (8, 9))  # type: ignore[arg-type]
    assert launched == [(2, 7, (8, 9), 1001)]
    assert entered == ([] if current == 1 else [1, -1])  # the guard takes time, and is not needed
