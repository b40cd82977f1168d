"""Every instantiation of the CUDA C++ kernels, launched on no GPU: with which block, and how much shared memory.

The objects that nvcc made are linked with csrc/rehearsal, a CUDA runtime that launches nothing, into a module like
alexkern._cuda. The operators' own launchers then run through it on small CPU tensors; what the kernels would have
written stays as it was. So what is learnt is what the launchers do, and what a launch costs without the driver.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from alexkern import dispatch
from alexkern.arithmetic import DTYPES
from alexkern.backends.building import EXPORTS, HIDING, SOURCES, digest, load_module, locked, make, offers, run
from alexkern.backends.cuda import (
    conv2d_relu,
    conv2d_relu_max_pool2d,
    emulated,
    linear_relu_dropout,
    sm90,
    space_to_depth,
)
from alexkern.cache import cache_folder
from alexkern.cost import sm80
from alexkern.cost import sm90 as cost
from alexkern.cost.sm80_pooled import Plan
from alexkern.geometry import Geometry
from alexkern.ops.operator import Operator
from alexkern.ops.registry import OPERATORS
from alexkern.references.reference import Case
from alexkern.tools.objects import launchers, nvcc
from alexkern.tools.objects import missing as missing_objects
from alexkern.verify.trials import Call, gradient_like

MODULE, CPU = "alexkern_rehearsal", torch.device("cpu")
ONE, NONE, TWO, THREE, FOUR, WIDE = (1, 1), (0, 0), (2, 2), (3, 3), (4, 4), (17, 17)
LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_size_t)


@dataclass(frozen=True)
class Launch:
    """kernel is its mangled name; shared is dynamic, in bytes; cluster: blocks along x that run together."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    cluster: int = 1


@dataclass(frozen=True)
class Rehearsal:
    """The module, and its runtime as a library of C functions."""

    module: ModuleType
    runtime: ctypes.CDLL


def missing() -> str | None:
    """Why nothing can be rehearsed here, or None where it can."""
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not installed (pip install 'alexkern[dev]')"
    return missing_objects()


@lru_cache(maxsize=1)
def load() -> Rehearsal:
    """Built first where the sources have changed.

    Raises:
        RuntimeError: nvcc or pybind11 is missing, or nvcc failed.
    """
    reason = missing()
    if reason is not None:
        raise RuntimeError(f"alexkern: {reason}")
    path = _build(cache_folder("nvcc"))
    return Rehearsal(load_module(MODULE, path), ctypes.CDLL(str(path)))


@contextmanager
def rehearsing() -> Iterator[list[Launch]]:
    """Within the block the launchers of CPU tensors launch nothing; yields the list of what they would have."""
    rehearsal, launches = load(), []

    def note(kernel: bytes, sizes: Any, shared: int) -> None:
        x, y, z, *block, cluster = sizes[:7]
        launches.append(Launch(kernel.decode(), (x, y, z), (block[0], block[1], block[2]), shared, cluster))

    listener = LISTENER(note)
    rehearsal.runtime.rehearsal_listen(listener)
    with launching_nothing():
        try:
            yield launches
        finally:
            rehearsal.runtime.rehearsal_listen(LISTENER())


def launching_nothing() -> AbstractContextManager[None]:
    """Within the block the launchers of CPU tensors launch nothing."""
    return emulated.replaced_by(load().module)


def everything() -> list[Launch]:
    """A launch of each instantiation that the launchers can choose."""
    with rehearsing() as launches:
        for call in _calls():
            call()
    return launches


def _calls() -> Iterator[Callable[[], None]]:
    arithmetic = [(dtype, False) for dtype in DTYPES] + [(torch.float32, True)]
    for (dtype, tf32), tile, channels in itertools.product(arithmetic, range(len(sm80.TILES)), (3, 8)):
        yield partial(_convolve, dtype, tf32, tile, channels)
    for dtype, tile, channels, cluster in itertools.product(DTYPES[1:], cost.BLOCK_N, (48, 64), (1, 2)):
        yield partial(_convolve_on_sm90, dtype, tile, channels, cluster)
    for dtype in DTYPES:
        yield partial(_add_one_by_one, dtype)
    for dtype in DTYPES[1:]:
        yield partial(_drop_on_sm90, dtype)
    for source, dtype in itertools.product(space_to_depth.SOURCES, DTYPES):
        yield partial(_convolve_in_depth, source, dtype)
    for operator in OPERATORS.values():
        cases = () if operator.reference is None or dispatch.absent("cuda", operator.name) else operator.reference.cases
        for case, dtype, channels_last in itertools.product(cases, DTYPES, (False, True)):
            yield partial(_as_verified, operator, case, dtype, channels_last)


def _as_verified(operator: Operator, case: Case, dtype: torch.dtype, channels_last: bool) -> None:
    call = Call(operator, dispatch.implementation("cuda", operator.name), case.draw(dtype, CPU, channels_last))
    if operator.has_offsets:
        call.module.forward(*call.args[:-1], False)
    outputs = call.forward()
    call.backward(outputs, gradient_like(outputs[0]))


def _images(dtype: torch.dtype, channels: int) -> Tensor:
    """Of eight channels in whole vectors, channels innermost; of three, contiguous."""
    format = torch.channels_last if channels == 8 else torch.contiguous_format
    return torch.zeros((2, channels, 19, 19), dtype=dtype).to(memory_format=format)


def _convolve(dtype: torch.dtype, tf32: bool, tile: int, channels: int) -> None:
    images, filters = _images(dtype, channels), torch.zeros((16, channels, 3, 3), dtype=dtype)
    bias, everything = torch.zeros(16, dtype=dtype), (True, True, True)
    arguments = (ONE, ONE, ONE, 1)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(conv2d_relu, "choose", lambda *_: (tile, 1)))
        stack.enter_context(mock.patch.object(conv2d_relu, "is_tf32", lambda _: tf32))
        output = conv2d_relu.forward(images, filters, bias, *arguments)
        conv2d_relu.backward(output, images, filters, output, *arguments, everything)
        fused = Plan(tile, 2, 2)
        for pooling, plan in (((THREE, TWO, NONE), fused), ((TWO, TWO, NONE), None), ((WIDE, ONE, NONE), None)):
            if plan is not None and tile == 0:  # which the fused kernel does not have
                continue
            stack.enter_context(mock.patch.object(conv2d_relu_max_pool2d, "plan_of", lambda *_, plan=plan: plan))
            pooled, offsets = conv2d_relu_max_pool2d.forward(images, filters, bias, *arguments, *pooling, True)
            assert offsets is not None
            conv2d_relu_max_pool2d.backward(pooled, images, filters, offsets, *arguments, *pooling, needs=everything)


def _add_one_by_one(dtype: torch.dtype) -> None:
    """Sums that are no multiple of four."""
    conv2d_relu.bias_gradient(torch.zeros(2, 6), 1, 6, 6, dtype)


def _convolve_on_sm90(dtype: torch.dtype, tile: int, channels: int, cluster: int) -> None:
    """Steps of 48 channels have tiles of up to 128 filters; the weight gradient has three of the five."""

    def choose(_device: object, work: cost.Work, weight_gradient: bool) -> tuple[int, int, int]:
        if weight_gradient:
            return {96: 64, 192: 256}.get(tile, tile), 1, 1
        return min(tile, cost.MOST_BLOCK_N) if work.block_k == cost.SMALL_BLOCK_K else tile, 1, cluster

    with (
        mock.patch.dict(os.environ, ALEXKERN_EMULATE_CAPABILITY="9.0"),
        mock.patch.object(sm90, "choose", choose),
    ):
        images = torch.zeros((2, channels, 9, 9), dtype=dtype).to(memory_format=torch.channels_last)
        filters = torch.zeros((16, channels, 3, 3), dtype=dtype)
        output = conv2d_relu.forward(images, filters, None, ONE, ONE, ONE, 1)
        conv2d_relu.backward(output, images, filters, output, ONE, ONE, ONE, 1, (False, True, False))


def _convolve_in_depth(source: torch.dtype, dtype: torch.dtype) -> None:
    images, output = torch.zeros((2, 3, 19, 19), dtype=source), torch.zeros((2, 8, 3, 3), dtype=dtype)
    filters = torch.zeros((8, 3, 3, 48), dtype=dtype)
    geometry = Geometry(2, 3, 19, 19, 8, 11, 11, FOUR, ONE, ONE, 1)
    conv2d_relu.convolve_in_depth(images, filters, None, output, geometry)


def _drop_on_sm90(dtype: torch.dtype) -> None:
    """The product is one of the convolution's; where it is split, the sum of splits comes after it."""
    rows, weight = torch.zeros((17, 128), dtype=dtype), torch.zeros((8, 128), dtype=dtype)
    with (
        mock.patch.dict(os.environ, ALEXKERN_EMULATE_CAPABILITY="9.0"),
        mock.patch.object(sm90, "choose_linear", lambda *_: (64, 2, 1)),
    ):
        for seed in (torch.zeros(2).long(), None):
            linear_relu_dropout.forward(rows, weight, None, seed, 0.5, True)


def _build(folder: Path) -> Path:
    import pybind11

    built = launchers()
    binding, *others = own = [
        SOURCES / name for name in ("cuda/bindings.cpp", "cuda/runtime.cu", "rehearsal/cudart.cpp")
    ]
    includes = [f"-isystem={path}" for path in (pybind11.get_include(), sysconfig.get_path("include"))]
    defines = [f"-DALEXKERN_MODULE={MODULE}", '-DALEXKERN_TARGETS="none"']
    defines += [f'-DALEXKERN_{name}="rehearsal"' for name in ("VERSION", "SOURCES")]
    command = [nvcc(), "-std=c++17", "-O3", "-Xcompiler=-fPIC", f"-I{SOURCES}", *includes, *defines]
    bind = [*command, *offers(SOURCES / "cuda"), "-c", str(binding)]
    link = [*command, "-shared", "--cudart=none", *HIDING, *map(str, others), *map(str, built)]
    texts = [path.read_bytes() for path in (*own, EXPORTS, *sorted(SOURCES.rglob("*.h")))]
    module = folder / f"rehearsal-{digest(repr(bind), repr(link), sys.version, *texts)}.so"
    with locked(folder / "lock-rehearsal"):
        if not module.exists():
            bound, linked = module.with_suffix(".o"), module.with_suffix(".linked")
            make(bind, bound, "compiling the binding without a GPU")
            make([*link, str(bound)], linked, "linking the kernels without a GPU")
            bound.unlink()
            _load_elsewhere(linked)
            linked.replace(module)
    return module


def _load_elsewhere(linked: Path) -> None:
    """A function of CUDA's that csrc/rehearsal lacks would be taken from another runtime in this process, such as
    torch's; in a process with none, its absence is an error."""
    done = run([sys.executable, "-I", "-S", "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(linked)])
    if done.returncode != 0:
        linked.unlink()
        raise RuntimeError(f"alexkern: the rehearsal's runtime is not whole: {done.stderr.strip().splitlines()[-1]}")
