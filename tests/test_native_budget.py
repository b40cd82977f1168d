"""Every CUDA C++ kernel, compiled by nvcc for each target and held to its budget; launchers rehearsed without a GPU."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from alexkern.tools import objects, report
from alexkern.tools.cuda_budget import rules, violations
from alexkern.tools.instantiations import Instantiation, demangled, instantiations
from alexkern.tools.rehearsal import Launch, everything
from support.installed import installed

pytestmark = pytest.mark.skipif(objects.missing() is not None, reason=f"{objects.missing()}")

# The quick half compiles for one target.
QUICK = "90a"
TARGETS = [QUICK, *(pytest.param(target, marks=pytest.mark.full) for target in objects.TARGETS if target != QUICK)]
OPERATORS = sorted({path.parent.name for path in objects.sources()})


@cache
def compiled(target: str) -> tuple[Instantiation, ...]:
    if target not in objects.targets():
        pytest.skip(f"this nvcc does not know sm_{target}")
    with tempfile.TemporaryDirectory() as folder:
        made = installed(target, Path(folder)) or objects.objects(target)
        return tuple(instantiations(made, everything()))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("target", TARGETS)
def test_budget(target: str, operator: str) -> None:
    kernels = [kernel for kernel in compiled(target) if kernel.operator == operator]
    assert kernels
    broken = [line for kernel in kernels for line in violations(kernel)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("target", TARGETS)
def test_the_rules_are_about_kernels_that_exist(target: str) -> None:
    kernels = compiled(target)
    for folder in OPERATORS:
        names = [kernel.kernel for kernel in kernels if kernel.operator == folder]
        for rule in rules(folder):
            served = [name for name in names if re.fullmatch(rule.name, name)]
            # In three dtypes at least: half the bits, twice the values.
            assert len({name.partition("<")[2].partition(",")[0] for name in served}) >= 3, rule
    products = [kernel for kernel in kernels if kernel.products]
    arithmetic = {name for name in ("Half<float16>", "Half<bfloat16>", "Tf32") for k in products if name in k.kernel}
    assert arithmetic == {"Half<float16>", "Half<bfloat16>", "Tf32"}
    assert [name for name in OPERATORS if not rules(name)] == ["conv2d_relu", "sm90"]  # which hold the products


# Kernels that break the budget in one way each, beside those that they were made from, which do not. Their names are
# those that the rules are about.
PLANTED = """
#include "cuda/elements.cuh"
#include "cuda/ptx/cp_async.cuh"
#include "cuda/ptx/mma.cuh"

namespace mma {
struct Right {};
struct NoTensorCore {};
struct NarrowCopies {};
}  // namespace mma

namespace alexkern {

__global__ void __launch_bounds__(256) right_kernel(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }

// 64 sums of a thread in the 64 registers that are left to it.
__global__ void __launch_bounds__(1024) spill_kernel(const float* x, float* y, int n) {
    float sum[64] = {};
    for (int i = 0; i < n; ++i) {
#pragma unroll
        for (int j = 0; j < 64; ++j) sum[j] += x[64 * i + j] * x[j + threadIdx.x];
    }
#pragma unroll
    for (int j = 0; j < 64; ++j) y[64 * threadIdx.x + j] = sum[j];
}

// An index that is not known before the kernel runs.
__global__ void __launch_bounds__(256) local_kernel(const int* x, int* y, int n) {
    int table[32];
    for (int i = 0; i < 32; ++i) table[i] = x[i];
    for (int i = 0; i < n; ++i) table[x[i] & 31] += table[(x[i] + 1) & 31];
    y[threadIdx.x] = table[threadIdx.x & 31];
}

__global__ void __launch_bounds__(256) atomic_kernel(float* y) { atomicAdd(y, 1.0f); }

template <typename Kind>
__global__ void __launch_bounds__(256) product_kernel(const float* x, float* y, int n) {
    std::uint32_t* tile = ptx::dynamic_shared_memory<std::uint32_t>();
    float d[4] = {};
    for (int i = 0; i < n; ++i) {
        const float* source = x + 1024 * i + 4 * threadIdx.x;
        if constexpr (std::is_same<Kind, mma::NarrowCopies>::value) {
            ptx::cp_async_8(ptx::shared_address(tile + 4 * threadIdx.x), source);
        } else {
            ptx::cp_async_16(ptx::shared_address(tile + 4 * threadIdx.x), source);
        }
        ptx::cp_async_commit_group();
        ptx::cp_async_wait_group<0>();
        __syncthreads();
        const std::uint32_t* row = tile + threadIdx.x;
        const std::uint32_t a[4] = {row[0], row[64], row[128], row[192]}, b[2] = {row[256], row[320]};
        if constexpr (std::is_same<Kind, mma::NoTensorCore>::value) {
            for (int j = 0; j < 4; ++j) d[j] += __uint_as_float(a[j]) * __uint_as_float(b[j % 2]);
        } else {
            ptx::mma_m16n8k16<ptx::bfloat16>(d, a, b);
        }
        __syncthreads();
    }
    y[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
}

template __global__ void product_kernel<mma::Right>(const float*, float*, int);
template __global__ void product_kernel<mma::NoTensorCore>(const float*, float*, int);
template __global__ void product_kernel<mma::NarrowCopies>(const float*, float*, int);

}  // namespace alexkern
"""
# The same kernel three times: as the rules want it, and with its loads or its stores in single values.
PLANTED_COPIES = """
#include "cuda/elements.cuh"

namespace alexkern {

template <typename T, int kWidth, bool kNarrowLoads, bool kNarrowStores>
__device__ void copy(const T* x, T* y) {
    float values[kWidth];
    if constexpr (kNarrowLoads) {
        for (int i = 0; i < kWidth; ++i) values[i] = ptx::to_float(*(volatile const T*)(x + kWidth * threadIdx.x + i));
    } else {
        load_vector(x + kWidth * threadIdx.x, values);
    }
    if constexpr (kNarrowStores) {
        for (int i = 0; i < kWidth; ++i) *(volatile T*)(y + kWidth * threadIdx.x + i) = values[i];
    } else {
        store_vector(y + kWidth * threadIdx.x, values);
    }
}

template <typename T, int kWidth, bool kSave>
__global__ void strip_kernel(const T* x, T* y) { copy<T, kWidth, false, false>(x, y); }
template <typename T, typename Offset, int kWidth>
__global__ void window_kernel(const T* x, T* y) { copy<T, kWidth, true, false>(x, y); }
template <typename T, typename Offset, int kWidth, bool k3x3>
__global__ void backward_kernel(const T* x, T* y) { copy<T, kWidth, false, true>(x, y); }

template __global__ void strip_kernel<float, 4, false>(const float*, float*);
template __global__ void window_kernel<float, std::uint8_t, 4>(const float*, float*);
template __global__ void backward_kernel<float, std::uint8_t, 4, true>(const float*, float*);
template __global__ void window_kernel<float, std::uint8_t, 1>(const float*, float*);

}  // namespace alexkern
"""
PRODUCT_BYTES = 8192
# In which words each breaks the budget, and those that do not.
PLANTED_KERNELS = {
    "spill_kernel": "accesses to local memory",
    "local_kernel": "accesses to local memory",
    "atomic_kernel": "atomic operations",
    "product_kernel<mma::NoTensorCore>": "no HMMA",
    "product_kernel<mma::NarrowCopies>": "copies to shared memory by width in bits {64:",
    "window_kernel<float, unsigned char, 4>": "loads by width in bits {32: 4}; wanted 128",
    "backward_kernel<float, unsigned char, 4, true>": "stores by width in bits {32: 4}; wanted 128",
    "right_kernel": None,
    "product_kernel<mma::Right>": None,
    "strip_kernel<float, 4, false>": None,
    "window_kernel<float, unsigned char, 1>": None,
}


@cache
def planted(target: str, folder: Path) -> dict[str, Instantiation]:
    if target not in objects.targets():
        pytest.skip(f"this nvcc does not know sm_{target}")
    sources = [folder / "planted" / "planted.cu", folder / "max_pool2d" / "copies.cu"]
    for source, text in zip(sources, (PLANTED, PLANTED_COPIES), strict=True):
        source.parent.mkdir(exist_ok=True)
        source.write_text(text)
    made = objects.objects(target, sources)
    mangled = [name for item in made for name in item.kernels]
    launches = [Launch(name, (1, 1, 1), (256, 1, 1), PRODUCT_BYTES if "product" in name else 0) for name in mangled]
    return {kernel.kernel: kernel for kernel in instantiations(made, launches)}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PLANTED_KERNELS)
def test_a_planted_fault_is_found(name: str, target: str, folder: Path) -> None:
    kernel, words = planted(target, folder)[name], PLANTED_KERNELS[name]
    broken = violations(kernel)
    assert all(f": {name} on sm_{kernel.target}: " in line for line in broken)
    assert words is None or any(words in line for line in broken), broken
    # A spill is seen by ptxas as well, and nothing else is seen.
    assert len(broken) == (0 if words is None else 2 if name == "spill_kernel" else 1), broken


CONVOLVE, REDUCE, RELAYOUT = "convolve_kernel<bfloat16, 128, 64, 1>", "reduce_kernel<float, 4>", "relayout_kernel"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        # Single values in space_to_depth.
        (f"{RELAYOUT}<float, float16>", {"loads": {32: 12}}, "wanted four values at once"),
        (f"{RELAYOUT}<bfloat16, float16>", {"loads": {16: 12}}, "wanted four values at once"),
        (f"{RELAYOUT}<unsigned char, float16>", {"loads": {8: 12}}, "wanted four values at once"),
        *(
            (f"{RELAYOUT}<{source}, float16>", {"stores": {8: 81}}, "{8: 81}; wanted 128, and beside them only [8]")
            for source in ("float", "bfloat16", "unsigned char")
        ),
        # A step on sm_90a, and a sum of splits, that have grown: these instructions are added.
        (CONVOLVE, {"main_loop": {"IMAD": 40}}, "in the main loop, 0 of them R2UR; wanted 52 and none"),
        (CONVOLVE, {"main_loop": {"R2UR": 1}}, "1 of them R2UR"),
        (CONVOLVE, {"opcodes": {"ELECT": 14}}, "14 ELECT; wanted one"),
        (CONVOLVE, {"opcodes": {"MUFU": 7}}, "7 MUFU: what is divided"),
        (REDUCE, {"opcodes": {"IMAD": 300}}, "wanted at most 320 and none"),
        (REDUCE, {"opcodes": {"MUFU": 1}}, "wanted at most 320 and none"),
        # What a launch asks for.
        (CONVOLVE, {"shared": 228 * 1024, "blocks": 0}, "233472 bytes of shared memory; a block has 232448 at most"),
        (CONVOLVE, {"blocks": 0}, "no block fits"),
        (CONVOLVE, {"launched": False}, "a case of its reference has to make one"),
    ],
)
def test_what_has_changed_is_found(name: str, change: dict[str, Any], words: str) -> None:
    kernel = next(kernel for kernel in compiled(QUICK) if kernel.kernel == name)
    for counts in {"main_loop", "opcodes"} & {*change}:
        change = {counts: getattr(kernel, counts) | change[counts]}
    (line,) = violations(dataclasses.replace(kernel, **change))
    assert words in line


def test_what_a_launch_asks_for_is_read(folder: Path) -> None:
    right = planted(QUICK, folder)["product_kernel<mma::Right>"]
    assert (right.num_warps, right.shared, right.static_shared) == (8, PRODUCT_BYTES, 0)


def test_names_are_read() -> None:
    file = "39_GLOBAL__N__ccaee276_7_pack_cu_be519ab0"
    pack = f"_ZN8alexkern11conv2d_relu{file}11pack_kernelIN3ptx8bfloat16EEEvNS0_10PackParamsE"
    assert demangled([pack, "_Z5planePf"]) == ["conv2d_relu::pack_kernel<bfloat16>", "plane"]


def test_an_enumerator_among_the_arguments_stays_in_the_name() -> None:
    names = {kernel.kernel for kernel in compiled(QUICK)}
    assert {f"element_kernel<float, (Stage){stage}>" for stage in range(3)} <= names


def test_ptxas_is_read() -> None:
    log = """
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
    8 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 28 registers, used 0 barriers
"""
    assert objects.assembled(log) == {
        "first": objects.Assembled(registers=64, spilled=12, shared=2048),
        "second": objects.Assembled(registers=28, spilled=0, shared=0),
    }


def test_the_command_prints_a_line_an_instantiation(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--operator", "dropout"]) == 0
    header, *rows, summary, compiled_line = [line for line in capsys.readouterr().out.splitlines() if line]
    assert tuple(header.split(" | ")) == report.COLUMNS
    kernels = [row.split(" | ")[1] for row in rows]
    assert kernels == [f"dropout_kernel<{dtype}>" for dtype in ("bfloat16", "float16", "float")]
    assert all("LDG.128" in row and "STG.128" in row for row in rows)
    assert summary == "all 3 instantiations keep their budget"
    assert compiled_line.startswith("compiled dropout/dropout.cu for sm_90a in ")


def test_the_command_prints_json_and_fails_where_the_budget_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "violations", lambda kernel: [f"{kernel.kernel} is too dear"])
    assert report.main(["--operator", "dropout", "--json"]) == 1
    out, err = capsys.readouterr()
    assert {json.loads(line)["operator"] for line in out.splitlines()} == {"dropout"}
    assert "dropout_kernel<float> is too dear" in err
