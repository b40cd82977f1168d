"""On a GPU: compute-sanitizer over the kernels of both GPU backends, a shape or two of each operator."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from alexkern.ops.registry import OPERATORS
from support import sanitized
from support.backends import why_missing
from support.cases import CASES

FOUND = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/cuda/bin")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(FOUND is None, reason="needs compute-sanitizer, on PATH or in /usr/local/cuda/bin"),
]

# Out-of-range and misaligned accesses; hazards in shared memory; misused barriers.
TOOLS = ("memcheck", "racecheck", "synccheck")


def run(tool: str, backend: str, *names: str) -> tuple[int, str]:
    command = [str(FOUND), "--tool", tool, "--error-exitcode", "86", "--launch-timeout", "300"]
    # torch's caching allocator would hand out memory behind an array's end that is no error to touch.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "ALEXKERN_EMULATE": "0"}
    return sanitized.run_under(command, environment, *names, backend=backend)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("tool", TOOLS)
def test_every_operator(tool: str, backend: str, operator: str) -> None:
    reason = why_missing(backend, operator)
    if reason is not None:
        pytest.skip(reason)
    names = [name for case in CASES if str(case) in sanitized.QUICK for name in sanitized.names(case)]
    names = [name for name in names if name.startswith(f"{operator}-")]
    if (operator, backend) == ("conv2d_relu", "cuda"):
        names.append(sanitized.IN_DEPTH)
    status, output = run(tool, backend, *names)
    assert status == 0 and "all clean" in output and re.search(r"ERROR SUMMARY: 0 errors|0 hazards", output), output


def test_the_sanitizer_is_awake() -> None:
    """A launch that goes one element too far is found."""
    reason = why_missing("cuda", "dropout")
    if reason is not None:
        pytest.skip(reason)
    status, output = run("memcheck", "cuda", sanitized.OVERRUN)
    assert status != 0 and re.search(r"Invalid __global__ (read|write)[\s\S]*dropout", output), output
