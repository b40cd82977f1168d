"""The native module on a CUDA runtime that launches nothing: what reaches a launch, and how its errors come back."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch

from alexkern import geometry
from alexkern.arithmetic import DTYPES
from alexkern.backends import cuda
from alexkern.backends.cuda import conv2d_relu, conv2d_relu_max_pool2d, dropout, emulated, max_pool2d, sm90
from alexkern.backends.cuda.layout import Packed
from alexkern.bench import bench_launch
from alexkern.bench.checks import WrongResult
from alexkern.bench.layers import Target
from alexkern.cost.sm80_pooled import Plan
from alexkern.tools import rehearsal
from alexkern.tools.instantiations import demangled

pytestmark = pytest.mark.skipif(rehearsal.missing() is not None, reason=f"{rehearsal.missing()}")

INSUFFICIENT_DRIVER, NO_KERNEL_IMAGE = 35, 209
ONE = ((1, 1), (0, 0), (1, 1), 1)  # stride, padding, dilation, groups


@pytest.fixture
def runtime() -> Iterator[ctypes.CDLL]:
    loaded = rehearsal.load().runtime
    built = rehearsal.load().module.cuda_version
    yield loaded
    loaded.rehearsal_launches_return(0)
    loaded.rehearsal_driver_is(1000 * built[0] + 10 * built[1])


def test_a_launch_is_seen_as_the_launcher_asked_for_it() -> None:
    input = torch.zeros(4096 * 3 + 1)
    with rehearsal.rehearsing() as launches:
        output = dropout.forward(input, torch.zeros(2, dtype=torch.int64), 0.5)
    assert output.shape == input.shape and emulated._stand_in is None, "nothing stays behind"
    (launch,) = launches
    assert "dropout_kernelIf" in launch.kernel
    assert (launch.grid, launch.block, launch.shared) == ((7, 1, 1), (256, 1, 1), 0)


@pytest.mark.parametrize("kernel", [bench_launch._dropout, bench_launch._max_pool2d])
def test_the_bench_of_launches_passes_what_the_binding_takes(kernel: Callable[[Target], bench_launch.Launch]) -> None:
    name, x, arguments, _ = kernel(Target(torch.device("cpu"), torch.float32))
    with rehearsal.rehearsing() as launches:
        cuda.launch(name, x, *arguments)
    assert len(launches) == 1


def test_the_bench_of_launches_finds_a_wrong_result() -> None:
    output = torch.ones(3)
    trial = bench_launch._trial(lambda target: ("none", output, (), output), Target(torch.device("cpu"), torch.float32))
    for variant in ("alexkern", "torch.relu_"):
        trial.check(variant, None)
    output[1] = 2
    trial.check("torch.relu_", None)
    with pytest.raises(WrongResult):
        trial.check("alexkern", None)


def test_every_instantiation_of_the_convolutions_is_launched() -> None:
    names = dict.fromkeys(demangled([launch.kernel for launch in rehearsal.everything()]))
    counts = Counter(name.partition("<")[0] for name in names if "conv" in name or "sm90" in name or "depth" in name)
    assert counts == {
        "sm90::convolve_kernel": 32, "sm90::weight_gradient_kernel": 6, "conv2d_relu::convolve_kernel": 18,
        "conv2d_relu::weight_gradient_kernel": 18, "conv2d_relu::reduce_kernel": 6, "conv2d_relu::pack_kernel": 3,
        "conv2d_relu_max_pool2d::forward_kernel": 12, "conv2d_relu_max_pool2d::backward_kernel": 12,
        "space_to_depth::relayout_kernel": 12, "space_to_depth::amend_kernel": 3,
    }  # fmt: skip


def test_blocks_run_together_where_the_kernel_shares_tiles() -> None:
    launches = [launch for launch in rehearsal.everything() if "convolve_kernel" in launch.kernel]
    clusters = {launch.cluster for launch in launches if "sm90" in launch.kernel}
    assert clusters == {1, 2}
    for launch in launches:
        shares = re.search(r"sm90.*convolve_kernel.*Li2EEEv", launch.kernel) is not None
        assert launch.cluster == (2 if shares else 1) and launch.grid[0] % launch.cluster == 0, launch


@pytest.mark.parametrize(("images", "cluster", "blocks"), [(1, 2, 2), (3, 2, 4), (3, 1, 3), (90, 2, 66), (90, 1, 67)])
def test_a_grid_is_of_whole_clusters_and_no_larger_than_its_tiles(
    monkeypatch: pytest.MonkeyPatch, images: int, cluster: int, blocks: int
) -> None:
    """Rows of 100 pixels an image, a tile of 128 each; 67 multiprocessors, so that one of them has no partner."""
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "9.0")
    monkeypatch.setattr(sm90, "EMULATED", replace(sm90.EMULATED, num_sms=67))
    monkeypatch.setattr(sm90, "choose", lambda *_: (64, 1, cluster))
    input = torch.zeros((images, 64, 10, 10), dtype=torch.float16).to(memory_format=torch.channels_last)
    with rehearsal.rehearsing() as launches:
        conv2d_relu.forward(input, torch.zeros((8, 64, 1, 1), dtype=torch.float16), None, *ONE)
    (launch,) = [launch for launch in launches if "convolve_kernel" in launch.kernel]
    assert (launch.grid, launch.cluster) == ((blocks, 1, 1), cluster)


def test_kernels_for_every_gpu_fit_the_smallest_blocks() -> None:
    """Those of compute capabilities 8.6, 8.9 and 12.0."""
    others = [launch for launch in rehearsal.everything() if "sm90" not in launch.kernel]
    assert max(launch.shared for launch in others) <= 101376


@pytest.mark.parametrize("plan", [Plan(1, 1, 1), Plan(1, 27, 1), Plan(2, 13, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_fused_block_has_the_shared_memory_that_the_model_counts(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, plan: Plan
) -> None:
    monkeypatch.setattr(conv2d_relu_max_pool2d, "plan_of", lambda *_: plan)
    x, w = torch.zeros((1, 8, 9, 57), dtype=dtype), torch.zeros((16, 8, 3, 3), dtype=dtype)
    with rehearsal.rehearsing() as launches:
        pool = ((3, 3), (2, 2), (0, 0))
        conv2d_relu_max_pool2d.forward(x, w, None, (1, 1), (1, 1), (1, 1), 1, *pool, False)
    assert launches[-1].shared == plan.shared_bytes(dtype.itemsize)


def convolution() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, geometry.Geometry]:
    """Images, filters and outputs, which sm90's kernels serve."""
    x, w, y = (
        torch.zeros(size, dtype=torch.float16).to(memory_format=torch.channels_last)
        for size in ((1, 64, 9, 9), (16, 64, 3, 3), (1, 16, 7, 7))
    )
    return x, w, y, geometry.convolution(x, w, *ONE)


@pytest.mark.parametrize("kernel", ["convolve_kernel", "weight_gradient_kernel"])
def test_a_thread_whose_first_launch_has_tensor_maps(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """The driver encodes none before a context is current in the thread, and nothing before has made one so."""
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "9.0")
    x, w, y, of = convolution()
    calls = {
        "convolve_kernel": partial(conv2d_relu.forward, x, w, None, *ONE),
        "weight_gradient_kernel": partial(conv2d_relu.weight_gradient, Packed(y, 16), x, w, of),
    }
    with rehearsal.rehearsing() as launches, ThreadPoolExecutor(1) as thread:
        thread.submit(calls[kernel]).result()
    assert "sm90" in launches[0].kernel and kernel in launches[0].kernel


def test_a_launch_like_one_before_asks_the_driver_nothing(
    monkeypatch: pytest.MonkeyPatch, runtime: ctypes.CDLL
) -> None:
    """Tensor maps, the driver's version, the shared memory's limit: each once, and a map anew for another tensor."""
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", "9.0")
    x, w, y, of = convolution()
    plan = sm90.plan(Packed(x, 64), y, of, False)
    assert plan is not None and plan.direct
    elsewhere = torch.zeros(2**16, dtype=torch.float16)[2**14 :]  # where no other test has filters
    asked = []
    with rehearsal.rehearsing() as launches:
        for filters in (w, w, elsewhere.as_strided(w.shape, w.stride())):
            before = runtime.rehearsal_questions()
            sm90.convolve(plan, Packed(x, 64), filters, None, y)
            asked.append(runtime.rehearsal_questions() - before)
    assert len(launches) == 3
    assert asked[0] > 0 and asked[1:] == [0, 1]


def test_an_old_driver_is_named_with_the_one_that_is_needed(runtime: ctypes.CDLL) -> None:
    module = rehearsal.load().module
    major, minor = module.cuda_version
    runtime.rehearsal_launches_return(INSUFFICIENT_DRIVER)
    runtime.rehearsal_driver_is(12040)
    assert module.driver_version() == (12, 4)
    with rehearsal.launching_nothing(), pytest.raises(RuntimeError) as raised:
        max_pool2d.forward(torch.zeros(1, 3, 5, 5), (3, 3), (2, 2), (0, 0), (1, 1), False, True)
    assert str(raised.value) == (
        "kernel max_pool2d_forward: launching it: CUDA driver version is insufficient for CUDA runtime version "
        f"(cudaErrorInsufficientDriver); needed is a driver for CUDA {major}.{minor}, here is one for CUDA 12.4"
    )
    runtime.rehearsal_driver_is(0)
    assert module.driver_version() is None
    with rehearsal.launching_nothing(), pytest.raises(RuntimeError, match=rf"CUDA {major}\.{minor}, here is none$"):
        dropout.forward(torch.zeros(3), torch.zeros(2, dtype=torch.int64), 0.5)


def test_any_other_error_names_the_kernel_and_itself(runtime: ctypes.CDLL) -> None:
    runtime.rehearsal_launches_return(NO_KERNEL_IMAGE)
    with rehearsal.launching_nothing(), pytest.raises(RuntimeError, match=r"^kernel dropout: launching it: .*\)$"):
        dropout.forward(torch.zeros(3), torch.zeros(2, dtype=torch.int64), 0.5)
    runtime.rehearsal_launches_return(0)
    with rehearsal.launching_nothing():
        dropout.forward(torch.zeros(3), torch.zeros(2, dtype=torch.int64), 0.5)
