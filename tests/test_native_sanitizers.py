"""Every operator's kernels under AddressSanitizer and ThreadSanitizer, on the emulator, through their own launchers.

A sanitizer has to be in a process from its start, so the kernels run in one of their own (support/sanitized.py).
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from alexkern.backends import cuda
from alexkern.backends.cuda import emulated
from alexkern.ops.registry import OPERATORS
from support import sanitized
from support.cases import CASES

REASON = cuda.missing("cpu", torch.float32)
pytestmark = pytest.mark.skipif(REASON is not None, reason=f"{REASON}")

BUILDS = ("address", "thread")


def names_of(operator: str) -> list[str]:
    return [name for case in CASES if case.operator == operator for name in sanitized.names(case)]


def assert_clean(build: str, names: list[str], seed: int = 0) -> None:
    status, output = sanitized.run(build, *names, seed=seed)
    assert status == 0 and "Sanitizer" not in output and output.splitlines() == [*names, "all clean"], output


@pytest.mark.parametrize("build", ["address", pytest.param("thread", marks=pytest.mark.full)])
def test_every_operator(build: str) -> None:
    """A shape or two of each, as the first that finds a fault.

    Each sanitizer takes a build of its own, over a minute: in the quick half ThreadSanitizer runs over test_emulator's
    programs alone.
    """
    cases = {str(case): case for case in CASES}
    assert {cases[name].operator for name in sanitized.QUICK} == set(OPERATORS)
    names = [name for case in sanitized.QUICK for name in sanitized.names(cases[case])]
    assert_clean(build, [*names, sanitized.IN_DEPTH, sanitized.PLANS])


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("build", BUILDS)
def test_everything(build: str, operator: str, seed: int) -> None:
    assert_clean(build, names_of(operator), seed)


@pytest.mark.full
@pytest.mark.parametrize("operator", ["conv2d_relu", "conv2d_relu_max_pool2d", "linear_relu_dropout"])
@pytest.mark.parametrize("build", BUILDS)
def test_everything_on_sm90(build: str, operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMA and wgmma, which serve these operators in 16 bits there."""
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "9.0")
    assert_clean(build, [name for name in names_of(operator) if name.endswith("float16")])


@pytest.mark.full
@pytest.mark.parametrize(
    ("build", "name", "words"),
    [
        ("address", sanitized.OVERRUN, r"heap-buffer-overflow[\s\S]*kernel dropout, block \(0, 0, 0\)"),
        ("thread", sanitized.RACE, r"data race[\s\S]*dropout_kernel<float>"),
    ],
)
def test_the_sanitizers_are_awake(build: str, name: str, words: str) -> None:
    """A launch with wrong arguments is found, so what is said to be clean was looked at."""
    status, output = sanitized.run(build, name)
    assert status != 0 and re.search(f"Sanitizer: {words}", output), output


# Faults planted in real kernels: file, what stands there, what stands there then, which build finds it, in which case.
PLANTED = {
    "a run goes one element too far": (
        "dropout/dropout.cu",
        "load(input + first, count - first,",
        "load(input + first, count - first + 1,",
        "address",
        "dropout-odd float32",
    ),
    "a window is read one column too far": (
        "max_pool2d/forward.cu",
        "if (w >= p.W) break;",
        "if (w > p.W) break;",
        "address",
        "max_pool2d-overlapping_by_2 float16",
    ),
    "a channel beyond the last": (
        "local_response_norm/local_response_norm.cu",
        "at >= 0 && at < p.C ?",
        "at >= 0 && at <= p.C ?",
        "address",
        "local_response_norm-norm2 float32",
    ),
    "a strip of windows runs into the next, with the same result": (
        "max_pool2d/forward.cu",
        "min(first + windows, p.P)",
        "min(first + windows + 1, p.P)",
        "thread",
        "max_pool2d-pool1 float16",
    ),
    "a row of pixels is read one too far": (
        "space_to_depth/relayout.cu",
        "if (first + k < length) run.value[k]",
        "if (first + k <= length) run.value[k]",
        "address",
        sanitized.IN_DEPTH,
    ),
    "a row is written out before the others are there": (
        "space_to_depth/relayout.cu",
        "    __syncthreads();\n\n    uint4* const destination",
        "    uint4* const destination",
        "thread",
        sanitized.IN_DEPTH,
    ),
    "sums are added before they are there": (
        "conv2d_relu/pack.cu",
        "parts[threadIdx.x] = sum;\n    __syncthreads();",
        "parts[threadIdx.x] = sum;",
        "thread",
        "conv2d_relu-stride_2_3 float32",
    ),
    "the rows above go before all have done with them": (
        "conv2d_relu_max_pool2d/forward.cu",
        "__syncthreads();  // all have done with the rows above",
        "",
        "thread",
        sanitized.PLANS,
    ),
    "windows are read before they are there": (
        "conv2d_relu_max_pool2d/forward.cu",
        "Kernel::stage(shared, sums, true);\n        __syncthreads();",
        "Kernel::stage(shared, sums, true);",
        "thread",
        sanitized.PLANS,
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_has_its_place(fault: str) -> None:
    file, right, *_ = PLANTED[fault]
    assert (emulated.SOURCES / "cuda" / file).read_text().count(right) == 1, f"{file} has changed: plant it anew"


@pytest.mark.full
@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_planted_in_a_kernel_is_found(fault: str, tmp_path: Path) -> None:
    file, right, wrong, build, name = PLANTED[fault]
    sources = tmp_path / "csrc"
    shutil.copytree(emulated.SOURCES, sources)
    planted = sources / "cuda" / file
    planted.write_text(planted.read_text().replace(right, wrong))
    status, output = sanitized.run(build, name, sources=sources)
    assert status != 0 and "Sanitizer" in output, output


def test_a_build_that_is_not_there_and_one_that_cannot_run_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXKERN_EMULATE", "memory")
    with pytest.raises(ValueError, match="ALEXKERN_EMULATE must be one of .*, address, thread, got 'memory'"):
        cuda.missing("cpu", torch.float32)
    monkeypatch.setenv("ALEXKERN_EMULATE", "thread")
    reason = cuda.missing("cpu", torch.float32)
    assert reason is not None and reason.endswith(f"set LD_PRELOAD={emulated.runtime('thread')}")
    assert os.path.isabs(emulated.runtime("thread"))
