"""Every Triton kernel, as configured for the AlexNets, compiled for each target and held to its budget.

Compiling needs no GPU, but real JIT functions, and under TRITON_INTERPRET=1 triton.jit makes interpreted ones: so it
happens in processes without that variable, each with a compile cache of its own, which print their reports as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.optional import need

triton = need("triton")

from alexkern.bench.layers import LAYERS  # noqa: E402
from alexkern.ops.registry import OPERATORS  # noqa: E402
from alexkern.tools.aot import Report  # noqa: E402
from alexkern.tools.triton_budget import resources, violations  # noqa: E402
from alexkern.tools.workloads import layers  # noqa: E402

TARGETS = (80, 86, 89, 90, 100, 120)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton-cache")


def run(cache: Path, *command: str) -> list[Report]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(cache)
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [read(line) for line in done.stdout.splitlines()]


def read(line: str) -> Report:
    fields = json.loads(line)
    for name in ("loads", "stores", "copies"):
        fields[name] = {int(width): number for width, number in fields[name].items()}
    return Report(**fields | {"grid": tuple(fields["grid"])})


def compiled(cache: Path, *runs: str) -> list[Report]:
    """The reports of `python -m alexkern.tools.aot` with these options, run after run."""
    return run(cache, "-c", MAIN, *runs)


MAIN = """
import sys
from alexkern.tools.aot import main
for options in sys.argv[1:]:
    main(["--json", "--jobs", "1", *options.split(",")])
"""


# Of Triton 3.6's code for 128 x 256 tiles ptxas waits for every wgmma: that costs time there, and is let off there.
OLD = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)


def assert_budget(reports: list[Report]) -> None:
    assert reports
    broken = [line for report in reports for line in violations(report) if not (OLD and "one by one" in line)]
    assert not broken, "\n".join(broken)


@pytest.mark.full  # the quick half compiles the pooled one's
def test_convolutions(cache: Path) -> None:
    """The first layer and one in groups on sm_90; one in between on other targets is left to the long half."""
    reports = compiled(
        cache,
        "--operator,conv2d_relu,--model,alexnet,--layer,conv1",
        "--operator,conv2d_relu,--model,alexnet_2012,--layer,conv2",
    )
    assert_budget(reports)
    layers = {(*report.workload.split()[1:3], report.target) for report in reports}
    assert layers == {("alexnet", "conv1", 90), ("alexnet_2012", "conv2", 90)}
    assert {report.call for report in reports} == {"forward", "backward"}


def test_every_other_operator(cache: Path) -> None:
    """In one process, whose start takes as long as a kernel."""
    reports = compiled(cache, *(_one_layer(operator) for operator in OPERATORS if operator != "conv2d_relu"))
    assert_budget(reports)
    calls = {(report.workload.split()[0], report.call) for report in reports}
    assert {(operator, "backward") for operator in OPERATORS} - calls == {("conv2d_relu", "backward")}


@pytest.mark.full
def test_linear_layers_of_few_rows_and_of_many(cache: Path) -> None:
    """Which have other tiles, as on other targets."""
    linear = _one_layer("linear_relu_dropout")
    reports = compiled(cache, f"{linear},--batch,1,1024", f"{linear},--target,100")
    assert_budget(reports)
    assert {(report.call, report.target) for report in reports} >= {("forward", 90), ("forward", 100)}


def _one_layer(operator: str) -> str:
    model = next(model for model in LAYERS if layers(operator, model))
    return f"--operator,{operator},--model,{model},--layer,conv2,pool2,before fc7,fc7,norm2"


@pytest.mark.full
def test_the_other_targets(cache: Path) -> None:
    """Consumer chips are alike but for their compilers: one of them is enough here."""
    layer = "--operator,conv2d_relu,--model,alexnet,--layer,conv3,--dtype,float16"
    reports = compiled(cache, f"{layer},--target,80,100,120")
    assert_budget(reports)
    assert {report.target for report in reports} == {80, 100, 120}


@pytest.mark.full
@pytest.mark.parametrize(("target", "layer"), [("100", "alexnet conv5"), ("80,89", "alexnet_2012 conv1")])
def test_small_tiles(target: str, layer: str, cache: Path) -> None:
    """ptxas spills them for the sake of occupancy unless it is told not to."""
    layer = "--operator,conv2d_relu,--batch,1,--model,{},--layer,{}".format(*layer.split())
    assert_budget(compiled(cache, f"{layer},--dtype,float16,bfloat16,--target,{target}"))


@pytest.mark.full
@pytest.mark.parametrize("arithmetic", ["float32", "tf32", "float16", "bfloat16"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_everything(operator: str, arithmetic: str, cache: Path) -> None:
    """Every configuration chosen for the three networks; what many layers and batches share is compiled once."""
    if arithmetic == "tf32" and not OPERATORS[operator].multiplies:
        pytest.skip("no matrix product")
    targets = ",".join(map(str, TARGETS))
    networks = "--model,alexnet,alexnet_2012,alexnet_single_tower,--batch,1,16,128,1024"
    assert_budget(compiled(cache, f"--operator,{operator},--dtype,{arithmetic},--target,{targets},{networks}"))


# The budget itself: kernels that break it in one way each, and the one that they were made from, which does not.
PLANTED = """
import dataclasses, json, sys
import torch, triton
import triton.language as tl
from alexkern.tools import aot


@triton.jit
def dropout_copy(x, y, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + place, tl.load(x + place * STEP, mask=place < n), mask=place < n)


@triton.jit
def dropout_spill(x, y, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place)
    tl.debug_barrier()
    total = tl.sum(value, 0)
    tl.store(y + place, value * total)


@triton.jit
def dropout_atomic(x, y, n, STEP: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place)
    tl.store(y + place, value)
    tl.atomic_add(y, tl.sum(value, 0))


@triton.jit
def product(x, y, n, STEP: tl.constexpr, BLOCK_K: tl.constexpr, CORES: tl.constexpr):
    row = tl.arange(0, 64)
    acc = tl.zeros((64, 64), tl.float32)
    for k0 in range(0, n, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        a = tl.load(x + row[:, None] * 4096 + k[None, :] * STEP)
        b = tl.load(x + row[None, :] * 4096 + k[:, None] * STEP)
        if CORES:
            acc = tl.dot(a, b, acc)
        else:
            acc += tl.sum(a, 1)[:, None] * tl.sum(b, 0)[None, :]
    tl.store(y + row[:, None] * 64 + row[None, :], acc)


x = torch.empty(4096 * 4096, device="meta")
half = x.to(torch.bfloat16)
n = x.numel()
LAUNCHES = {
    "good": lambda: dropout_copy[(4,)](x, x, n, 1, 1024),
    "spill": lambda: dropout_spill[(4,)](x, x, n, 1, 8192, num_warps=1),
    "scalar load": lambda: dropout_copy[(4,)](x, x, n, 2, 1024),
    "atomic": lambda: dropout_atomic[(4,)](x, x, n, 1, 1024),
    "good product": lambda: product[(1,)](half, x, 4096, 1, 64, True),
    "no tensor core": lambda: product[(1,)](half, x, 4096, 1, 64, False),
    "shared memory": lambda: product[(1,)](half, x, 4096, 1, 256, True, num_stages=7),
}
target, *names = sys.argv[1:]
for name in names:
    ((launch,), _) = aot.record(LAUNCHES[name])
    report = dataclasses.replace(aot.report(launch, int(target)), workload=name, arithmetic="bfloat16")
    print(json.dumps(dataclasses.asdict(report)))
"""


Planted = Callable[[int], dict[str, Report]]


@pytest.fixture(scope="session")
def planted(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The reports of the kernels on a target."""
    script = tmp_path_factory.mktemp("planted") / "planted.py"
    script.write_text(PLANTED)

    @functools.cache
    def on(target: int) -> dict[str, Report]:
        return {report.workload: report for report in run(cache, str(script), str(target), *BREAKS, *FINE)}

    return on


FINE = ("good", "good product")
BREAKS = {
    "spill": "accesses to local memory",
    "scalar load": "loads by width in bits",
    "atomic": "atomic operations",
    "no tensor core": "in the main loop",
    "shared memory": "bytes of shared memory; a block has",
}


on_each_target = pytest.mark.parametrize(
    "target", [90, *(pytest.param(target, marks=pytest.mark.full) for target in TARGETS if target != 90)]
)


@on_each_target
@pytest.mark.parametrize("name", BREAKS)
def test_a_planted_fault_is_found(name: str, target: int, planted: Planted) -> None:
    report = planted(target)[name]
    (line,) = violations(report)
    assert BREAKS[name] in line
    assert f"on sm_{target}" in line and report.kernel in line
    assert (not resources(report)) == (name not in ("spill", "shared memory"))


@on_each_target
@pytest.mark.parametrize("name", FINE)
def test_what_the_faults_were_planted_in_is_fine(name: str, target: int, planted: Planted) -> None:
    assert violations(planted(target)[name]) == []


def test_narrow_copies_are_found(planted: Planted) -> None:
    good = planted(90)["good product"]
    assert 128 in good.copies
    (line,) = violations(dataclasses.replace(good, copies=good.copies | {32: 8}))
    assert "copies to shared memory" in line


def test_tiles_of_few_rows_take_the_tensor_cores_of_old(planted: Planted) -> None:
    """wgmma multiplies 64 rows at least."""
    loop = dict(main_loop={"HMMA": 16}, products=16, commits=0)
    few, many = (
        dataclasses.replace(planted(90)["good product"], tile=f"BLOCK_M={rows} BLOCK_K=64", **loop) for rows in (16, 64)
    )
    assert violations(few) == []
    assert any("no HGMMA" in line for line in violations(many))
    assert any("no HMMA" in line for line in violations(dataclasses.replace(few, main_loop={"FFMA": 16})))


def test_serialised_wgmma_is_found(planted: Planted) -> None:
    good = planted(90)["good product"]
    assert good.products == 4 and good.commits == 1
    (line,) = violations(dataclasses.replace(good, commits=4))
    assert "one by one" in line


def test_a_kernel_too_large_for_a_multiprocessor_is_found(planted: Planted) -> None:
    (line,) = violations(dataclasses.replace(planted(90)["good"], blocks=0))
    assert "no block fits" in line
