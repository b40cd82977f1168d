"""Operators in a process that a sanitizer watches: python sanitized.py SOURCES BACKEND NAME ...

A NAME is a conformance case and an arithmetic, "max_pool2d-pool1 float16": forward and backward run through the public
function, in either memory format, on tensors whose memory ends where they do. It is printed before it runs, so that
the last one printed is the one that a report is about. Without a GPU the kernels run on the emulator.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import alexkern
from alexkern.arithmetic import ARITHMETIC
from alexkern.backends import cuda
from alexkern.backends.cuda import conv2d_relu, conv2d_relu_max_pool2d, emulated
from alexkern.geometry import Geometry
from support.backends import DEVICE
from support.cases import CASES, SUITES, Case

QUICK = tuple(f"{operator}-{label}" for operator, suite in SUITES.items() for label in suite.sanitizers)
# The first layer by space to depth, from images of every dtype and layout, and with an infinity to amend.
IN_DEPTH = "first layer in depth"
# The convolution with its pooling by plans whose tiles have one row and several.
PLANS = "pooling by forced plans"
# What shows that a sanitizer is awake: a launch that goes one element too far, and one that reads what it writes.
OVERRUN, RACE = "overrun", "race"


def names(case: Case) -> list[str]:
    """A case's, one for each arithmetic."""
    multiplies = case.operator.startswith("conv2d_relu")
    return [f"{case} {arithmetic}" for arithmetic in ARITHMETIC if multiplies or arithmetic != "tf32"]


def run(build: str, *wanted: str, seed: int = 0, sources: Path = emulated.SOURCES) -> tuple[int, str]:
    """The exit status and the output of a process that runs these names on a sanitizer build of the emulator."""
    environment = {
        "ALEXKERN_EMULATE": build,
        "LD_PRELOAD": emulated.runtime(build),
        "EMULATOR_SEED": str(seed),
        # Python and torch leave memory behind on purpose, and are not compiled for ThreadSanitizer.
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1",
    }
    status, output = run_under([], environment, *wanted, sources=sources)
    if "unexpected memory mapping" in output:  # ThreadSanitizer, where the kernel spreads addresses too widely
        return run_under(["setarch", "-R"], environment, *wanted, sources=sources)
    return status, output


def run_under(
    tool: list[str],
    environment: dict[str, str],
    *wanted: str,
    backend: str = "cuda",
    sources: Path = emulated.SOURCES,
) -> tuple[int, str]:
    """The exit status and the output of such a process, started by a tool."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*tool, sys.executable, __file__, str(sources), backend, *wanted],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        timeout=1800,
        check=False,
    )
    return done.returncode, done.stdout


def _run_case(case: Case, arithmetic: str) -> None:
    dtype, precision = ARITHMETIC[arithmetic]
    for settings in (torch.backends.mkldnn, torch.backends.cudnn):
        settings.conv.fp32_precision = precision
    generator = torch.Generator().manual_seed(20120930)
    for layout in (torch.contiguous_format, torch.channels_last):

        def own(tensor: Tensor | None, layout: torch.memory_format = layout) -> Tensor | None:
            if tensor is None:
                return None
            format = layout if tensor.dim() == 4 else torch.contiguous_format
            return tensor.contiguous(memory_format=format).clone().requires_grad_()

        output = case.call(*map(own, case.draw(dtype, DEVICE, generator)))
        output.backward(torch.randn(output.shape, generator=generator).to(output))
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()


def _run_in_depth() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        filters = conv2d_relu.filters_in_depth(torch.ones((6, 3, 11, 10), device=DEVICE, dtype=dtype))
        for source in {dtype, torch.float32, torch.uint8}:
            images = torch.arange(2 * 3 * 21 * 18, device=DEVICE).view(2, 3, 21, 18).remainder(256).to(source)
            bytes_to = ((0.5,) * 3, (0.25,) * 3) if source == torch.uint8 else None
            if bytes_to is None:
                images[1, 2, 17, 13] = float("inf")
            for layout in (torch.contiguous_format, torch.channels_last):
                whole = images.contiguous(memory_format=layout).clone()
                for part in (whole, whole[:, :, 1:, :-1]):
                    geometry = Geometry(2, 3, part.shape[2], part.shape[3], 6, 11, 10, (4, 4), (2, 1), (1, 1), 1)
                    output = torch.empty((2, 6, 4, 3), device=DEVICE, dtype=dtype)
                    conv2d_relu.convolve_in_depth(part, filters, None, output, geometry, bytes_to)
                    assert bool(output[0].isfinite().all())


def _run_plans() -> None:
    native = conv2d_relu_max_pool2d
    for dtype in (torch.float32, torch.float16):
        for filters, plan in ((8, (1, 31, 2)), (8, (2, 10, 9)), (5, (2, 3, 2))):
            native.plan_of = lambda *_, plan=plan: native.Plan(*plan)
            x = torch.randn(1, 8, 13, 21).to(dtype).contiguous(memory_format=torch.channels_last)
            w, b = torch.randn(filters, 8, 3, 3).to(dtype), torch.randn(filters).to(dtype)
            numbers = ((1, 1), (1, 1), (1, 1), 1, (3, 3), (2, 2), (0, 0))
            output, offsets = native.forward(x, w, b, *numbers, True)
            native.backward(output, x, w, offsets, *numbers, (True, True, True))


def _launch_dropout(count: int, shift: int) -> None:
    """So many elements of 64, into memory `shift` elements behind the input's first."""
    values, seed = torch.zeros(64, device=DEVICE), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    address = values.data_ptr()
    cuda.launch("dropout", values, address, address + 4 * shift, seed.data_ptr(), count, 0, 1.0)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


OTHERS = {
    OVERRUN: partial(_launch_dropout, 65, 0),
    RACE: partial(_launch_dropout, 60, 1),
    IN_DEPTH: _run_in_depth,
    PLANS: _run_plans,
}


def main(backend: str, wanted: list[str]) -> None:
    by_name = {str(case): case for case in CASES}
    with alexkern.backend(backend):
        for name in wanted:
            print(name, flush=True)
            if name in OTHERS:
                OTHERS[name]()
            else:
                case, arithmetic = name.rsplit(" ", 1)
                _run_case(by_name[case], arithmetic)
    print("all clean", flush=True)


if __name__ == "__main__":
    emulated.SOURCES = Path(sys.argv[1])
    main(sys.argv[2], sys.argv[3:])
