"""The host emulator: what each instruction does, that faults planted in kernels are found, and that nothing else is.

The programs in csrc/emulator/tests are compiled as they are by the host's compiler, plain and with either sanitizer,
and by nvcc where there is one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from alexkern.verify import probes
from alexkern.verify.children import Children
from support.emulator import CACHE, EMULATOR, SEEDS, build, command, compiler_version, digest, passes, run

WRAPPERS = [
    "ldmatrix",
    "ldmatrix_trans",
    "mma_fp16",
    "mma_bf16",
    "mma_tf32",
    "cp_async",
    "cp_async_groups",
    "barriers",
    "numbers",
    "round_trip",
    "warp",
    "bits",
    "atomics",
    "coordinates",
]
# For sm_90a alone.
SM90 = [
    "mbarrier",
    "tma_tile",
    "tma_im2col",
    "tma_im2col_apart",
    "tma_store",
    "wgmma_fp16",
    "wgmma_bf16",
    "wgmma_transposed_fp16",
    "wgmma_transposed_bf16",
    "stmatrix",
    "registers",
]
# Of no kernel, for PTX's description leaves it open.
OPEN = ["narrow_boxes", "store_in_front"]
CLUSTER = ["cluster", "tma_multicast"]
GEMM = ["whole_tiles", "partial_tiles", "few_steps", "conv3"]
CORRECT = ["turn", "ring", "swizzle", "sum", "halo", "rounds", "lanes", "blocks", "access", "named"]
ORDERS = ["product", "base", "staged", "load", "global"]

RACE = r"kernel \w+: data race .* by .*block \(\d+, 0, 0\), thread \(\d+, 0, 0\), and before it, unordered, a"
WRONG = "wrong result"
HERE = r"kernel \w+, block \(\d+, 0, 0\), thread \(\d+, 0, 0\): "
# A planted fault, the build that has to find it, and in which words.
BROKEN = [
    ("turn.no_barrier", "plain", WRONG),
    ("turn.no_barrier", "thread", RACE),
    (
        "turn.half_the_block_at_the_barrier",
        "plain",
        HERE + r"deadlock.*threads 0-63 wait at __syncthreads\(\) .*broken.cu",
    ),
    ("turn.early_return", "plain", HERE + r"returns, but lanes .* wait for it at __syncthreads\(\)"),
    ("turn.two_barriers_in_one_warp", "plain", HERE + r"diverged: is at __syncthreads\(\)"),
    ("ring.wait_one_short", "plain", WRONG),
    ("ring.wait_one_short", "thread", RACE + " write of .* by a copy by block"),
    ("ring.no_wait", "plain", WRONG),
    ("ring.no_wait", "thread", RACE + " write of .* by a copy by block"),
    ("ring.no_commit", "plain", WRONG),
    ("ring.no_commit", "thread", RACE + " write of .* by a copy by block"),
    ("ring.wait_behind_the_barrier", "plain", WRONG),
    ("ring.wait_behind_the_barrier", "thread", RACE + " write of .* by a copy by block"),
    ("ring.refill_before_barrier", "plain", WRONG),
    ("ring.refill_before_barrier", "thread", RACE),
    ("swizzle.none", "plain", "bank conflicts: 224"),
    ("swizzle.read_otherwise", "plain", WRONG),
    ("swizzle.too_narrow", "plain", "bank conflicts: 32"),
    ("sum.lane_stays_away", "plain", HERE + "returns, but lanes .* wait for it at __shfl_xor_sync"),
    ("sum.lane_takes_another_way", "plain", HERE + "diverged: is at __shfl"),
    ("sum.mask_too_small", "plain", HERE + "__shfl_xor_sync .*its own lane 31 is not in the mask"),
    ("sum.reads_beyond_mask", "plain", HERE + r"__shfl_xor_sync .*reads from lane \d+, which is not in the mask"),
    ("halo.one_too_far", "plain", HERE + "out-of-range access, at byte 960 of a guarded buffer of 960 bytes"),
    ("halo.one_too_far", "address", HERE + "out-of-range access, at byte 960 of a guarded buffer of 960 bytes"),
    ("halo.one_before", "address", HERE + "out-of-range access, at byte -4 of a guarded buffer of 960 bytes"),
    ("halo.shared_too_small", "plain", HERE + "out-of-range access, at byte 256 of shared memory of 256 bytes"),
    ("halo.shared_too_small", "address", HERE + "out-of-range access, at byte 256 of shared memory of 256 bytes"),
    ("halo.shared_before", "plain", r"block \(\d, 0, 0\): a thread wrote outside of shared memory, at byte -4 of 256"),
    ("halo.shared_before", "address", HERE + "out-of-range access, at byte -4 of shared memory of 256 bytes"),
    ("rounds.write_after_read", "thread", RACE),
    ("rounds.read_after_write", "thread", RACE),
    ("lanes.shuffle_for_barrier", "thread", RACE),
    ("blocks.no_fence", "thread", RACE),
    ("blocks.overlap", "thread", RACE),
    ("access.misaligned_vector", "plain", HERE + "misaligned access"),
    ("access.misaligned_vector", "address", HERE + "misaligned access"),
    ("access.misaligned_ldmatrix", "plain", HERE + "ldmatrix.x1: byte 56 of shared memory is not aligned to 16"),
    ("access.misaligned_cp_async", "plain", HERE + "cp.async: byte 148 of shared memory is not aligned to 16"),
    ("access.ldmatrix_outside", "plain", HERE + "ldmatrix.x1: bytes 528 to 543 of shared memory, which has 512"),
    ("access.cp_async_outside", "plain", HERE + "cp.async: bytes 656 to 671 of shared memory, which has 512"),
    ("access.address_of_global", "plain", HERE + "the shared address is taken of byte 0 of a guarded buffer"),
    ("access.null_pointer", "plain", HERE + "out-of-range access, at address 0x90"),
    ("access.stack_overflow", "plain", HERE + "stack overflow"),
    ("access.endless_loop", "plain", HERE + "runs on and on without reaching a barrier"),
    ("named.other_count", "plain", HERE + r"bar.sync 1, \d+: other warps are at this barrier with the count \d+"),
    ("named.count_not_whole_warps", "plain", HERE + "bar.sync 1, 48: the count must be a multiple of 32"),
    ("named.crossed", "plain", HERE + r"deadlock.*threads \d.* wait at bar.sync [12], 64"),
    ("named.too_few", "plain", HERE + "deadlock.*threads 0-63 wait at bar.sync 1, 96; threads 64-95 have exited"),
]
DEADLOCK = HERE + r"deadlock.*wait at mbarrier.try_wait of byte \d+, parity 0 \(phase \d+ lacks "
PROXY = r"reads byte \d+ of shared memory, written by ordinary means with no fence.proxy.async since"
PIPELINE = [
    ("no_wait_for_full", "plain", HERE + "mbarrier.arrive.expect_tx: more threads arrive than the barrier|" + WRONG),
    ("no_wait_for_full", "thread", r"data race .* a read of .* by a product of warp|more threads arrive"),
    ("wrong_parity", "plain", HERE + "mbarrier.*|" + WRONG),
    ("no_wait_for_empty", "plain", HERE + "mbarrier.arrive.expect_tx: more threads arrive than the barrier|" + WRONG),
    ("no_release", "plain", HERE + r"deadlock.*lacks 4 of 4 arrivals and 0 bytes"),
    ("released_too_early", "plain", WRONG),
    (
        "released_too_early",
        "thread",
        r"data race .* a write of .* by a bulk load by .* read of .* by a product of warp",
    ),
    ("too_few_bytes", "plain", DEADLOCK + r"0 of 1 arrivals and -16 bytes"),
    ("too_many_bytes", "plain", DEADLOCK + r"0 of 1 arrivals and 16 bytes"),
    (
        "no_fence_of_barriers",
        "plain",
        HERE + r"cp.async.bulk.tensor im2col load: its barrier .* no fence.mbarrier_init",
    ),
    ("no_proxy_fence", "plain", HERE + "cp.async.bulk.tensor store: " + PROXY),
    ("one_thread_fences", "plain", HERE + "cp.async.bulk.tensor store: " + PROXY),
    ("a_warp_does_not_fence", "thread", r"data race .* a read of .* by a bulk store by .* a write of"),
    ("no_barrier_before_store", "plain", WRONG),
    ("no_barrier_before_store", "thread", r"data race .* a read of .* by a bulk store by .* a write of"),
    ("no_wait_for_store", "plain", WRONG),
    ("no_wait_for_store", "thread", r"data race .* a write of .* a read of .* by a bulk store by"),
    ("no_wgmma_fence", "plain", HERE + "wgmma.mma_async: no wgmma.fence since"),
    ("no_wgmma_wait", "plain", HERE + "returns with no wgmma.wait_group|" + WRONG),
    ("wrong_swizzle", "plain", WRONG),
    ("wrong_descriptor", "plain", WRONG),
    ("three_warps_multiply", "plain", HERE + "wgmma.mma_async: another warp of its warpgroup has other descriptors"),
    ("corner_off_by_one", "plain", WRONG),
]
BROKEN += [(f"pipeline.{fault}", mode, words) for fault, mode, words in PIPELINE]
UNKNOWN = r"cp.async.bulk.tensor multicast load: .*(no barrier was initialised|is not known to the cluster)"
PAIR = [
    ("releases_own_alone", "plain", HERE + r"deadlock.*block \(\d.*lacks 1 of 2 arrivals.*block \(\d"),
    ("releases_the_peer_alone", "plain", HERE + r"deadlock.*block \(\d.*lacks 1 of 2 arrivals.*block \(\d"),
    ("no_wait_for_the_peer", "plain", WRONG),
    ("no_wait_for_the_peer", "thread", r"data race .* by a bulk load by block \(\d+, 0, 0\), thread \(32, 0, 0\)"),
    ("released_too_early", "plain", WRONG),
    ("released_too_early", "thread", r"data race .* a write of .* by a bulk load by .* a read of"),
    ("half_of_the_bytes", "plain", HERE + r"deadlock.*0 of 1 arrivals and -\d+ bytes|" + HERE + "returns, the last"),
    ("to_itself_alone", "plain", HERE + r"deadlock.*0 of 1 arrivals and 1024 bytes"),
    ("to_a_third_block", "plain", HERE + "cp.async.bulk.tensor multicast load: to block 2 of its cluster, which has 2"),
    ("no_cluster_barrier", "plain", HERE + UNKNOWN),
    ("no_wait_for_the_cluster", "plain", HERE + UNKNOWN),
    ("no_fence_of_barriers", "plain", HERE + "cp.async.bulk.tensor multicast load: .* no fence.mbarrier_init"),
    ("fenced_for_the_block_alone", "plain", HERE + r".*the barrier at byte 4096 of .* is not known to the cluster"),
    ("leaves_early", "plain", HERE + "(.*of its cluster has returned|returns, the last.* nothing says that)"),
    ("waits_for_its_last_stage_alone", "plain", HERE + "returns, the last of its block, and nothing says that it does"),
    ("waits_at_the_peers", "plain", HERE + "mbarrier.try_wait: takes addresses of its own block's shared memory"),
    ("arrives_twice", "plain", HERE + "barrier.cluster.arrive: arrives again"),
    ("cluster_barrier_for_a_block", "thread", RACE),
]
BROKEN += [(f"pair.{fault}", mode, words) for fault, mode, words in PAIR]
BROKEN += [
    (
        "product.written_behind_the_fence",
        "plain",
        HERE + r"wgmma.mma_async: lane \d+ wrote to registers .* since the last wgmma.fence",
    ),
    (
        "product.waits_for_one_that_waits",
        "plain",
        HERE + "deadlock.*threads 0-95 wait at wgmma.wait_group; threads 96-127 wait at mbarrier.try_wait",
    ),
    ("product.rows_begin_anywhere", "plain", HERE + "wgmma.mma_async: rows of 128 bytes that are not aligned to eight"),
    ("base.taken_for_granted", "plain", HERE + r"ldmatrix.x1: bytes -\d+ to -\d+ of shared memory"),
    ("staged.no_swizzle", "plain", "bank conflicts: 112"),
    ("staged.no_barrier", "thread", RACE),
    ("load.fenced_by_another", "plain", HERE + "cp.async.bulk.tensor load: its barrier .* no fence.mbarrier_init"),
    ("load.word_by_the_cluster", "thread", RACE),
    ("global.written_and_loaded", "thread", r"data race .* a read of .* by a bulk load, by the async proxy"),
    ("global.stored_and_read", "plain", WRONG),
    ("global.stored_and_read", "thread", r"data race .* a read of .* a write of .* by a bulk store by"),
]


def in_builds(*cases: str) -> list[Any]:
    """(case, mode): plain and with either sanitizer; the long half has AddressSanitizer's builds of the large programs,
    which take longest to compile and have no fault planted that needs it."""
    return [
        pytest.param(case, mode, marks=[pytest.mark.full] if mode == "address" and case not in CORRECT else [])
        for case in cases
        for mode in ("plain", "address", "thread")
    ]


# What no result shows: the race detector alone finds it.
ONLY_RACES = [
    "rounds.write_after_read",
    "rounds.read_after_write",
    "blocks.no_fence",
    "blocks.overlap",
    "pair.cluster_barrier_for_a_block",
    "load.word_by_the_cluster",
    "global.written_and_loaded",
]


def holder(case: str) -> str:
    """The program of planted faults that has this case."""
    kind = case.partition(".")[0]
    if kind in ORDERS:
        return "orders"
    return {"pipeline": "pipeline", "pair": "cluster"}.get(kind, "broken")


def wrapper_program(case: str) -> str:
    """The program that has this wrapper's test."""
    return "sm90" if case in SM90 else "cluster" if case in CLUSTER else "wrappers"


def test_programs_hold_the_cases_named_here() -> None:
    programs = {"wrappers": {*WRAPPERS}, "sm90": {*SM90, *OPEN}, "cluster": {*CLUSTER}, "gemm": {*GEMM}}
    for case in {case for case, _, _ in BROKEN} | {*CORRECT, *ORDERS, "pipeline", "pair"}:
        programs.setdefault(holder(case), set()).add(case)
    for program, cases in programs.items():
        listed = subprocess.run([build(program, "plain")], capture_output=True, text=True, check=True).stdout
        assert sorted(listed.split()) == sorted(cases)


@pytest.mark.parametrize(
    "mode", ["plain", *(pytest.param(mode, marks=pytest.mark.full) for mode in ("thread", "address", "portable"))]
)
@pytest.mark.parametrize("case", WRAPPERS + SM90 + CLUSTER)
def test_instruction(case: str, mode: str) -> None:
    passes(run(build(wrapper_program(case), mode), case, SEEDS[mode]))


@pytest.mark.parametrize("entry", [*probes.EVERYWHERE, *probes.ON_HOPPER], ids=lambda entry: entry[2])
def test_probes_of_verify(entry: tuple[str, str, str]) -> None:
    what, program, case = entry
    with Children() as children:
        probe = probes.attempt(build(program, "plain"), what, case, True, children, limit=60)
    assert probe.passed, probe.verdict


@pytest.mark.parametrize(
    ("case", "words"), [("store_in_front", "a negative coordinate"), ("narrow_boxes", "not as wide as the swizzle")]
)
def test_what_ptx_leaves_open(case: str, words: str) -> None:
    (entry,) = [entry for entry in probes.OPEN if entry[2] == case]
    with Children() as children:
        probe = probes.attempt(build("sm90", "plain"), entry[0], case, False, children, limit=60)
    assert probe.passed is False
    assert words in probe.reason and probe.verdict.startswith("undocumented: ")


@pytest.mark.parametrize(("case", "mode"), in_builds(*CORRECT, *ORDERS, "pipeline", "pair"))
def test_correct_kernel_passes(case: str, mode: str) -> None:
    passes(run(build(holder(case), mode), case, SEEDS[mode]))


@pytest.mark.parametrize(("case", "mode", "words"), BROKEN, ids=[f"{case}-{mode}" for case, mode, _ in BROKEN])
def test_broken_kernel_is_found(case: str, mode: str, words: str) -> None:
    done = run(build(holder(case), mode), case, SEEDS[mode])
    assert done.returncode != 0
    assert re.search(words, done.stdout + done.stderr), done.stdout + done.stderr


@pytest.mark.parametrize("case", ONLY_RACES)
def test_race_that_changes_no_result(case: str) -> None:
    passes(run(build(holder(case), "plain"), case, SEEDS["plain"]))


def test_late_delivery_is_what_finds_a_wait_one_stage_short() -> None:
    program = build("broken", "plain")
    passes(run(program, "ring.wait_one_short", 6, {"EMULATOR_DELIVERY": "early"}))
    for delivery in ("late", "mixed"):
        done = run(program, "ring.wait_one_short", 1, {"EMULATOR_DELIVERY": delivery})
        assert WRONG in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("late", ["EMULATOR_DELIVERY", "EMULATOR_PRODUCTS"])
def test_late_copies_and_late_products_are_drawn_by_themselves(late: str) -> None:
    # A stage released before its products are done is seen where those are late, whatever the copies do.
    program = build("pipeline", "plain")
    environment = {"EMULATOR_DELIVERY": "early", "EMULATOR_PRODUCTS": "early", late: "late"}
    done = run(program, "pipeline.released_too_early", 6, environment)
    assert (WRONG in done.stdout) == (late == "EMULATOR_PRODUCTS"), done.stdout + done.stderr
    passes(run(program, "pipeline", 6, environment))


@pytest.mark.parametrize(("case", "mode"), in_builds("whole_tiles", "partial_tiles", "few_steps"))
def test_gemm(case: str, mode: str) -> None:
    passes(run(build("gemm", mode), case, SEEDS[mode]))


def test_gemm_of_a_convolution_of_alexnet() -> None:
    passes(run(build("gemm", "plain"), "conv3"))


@pytest.mark.parametrize("mode", ["plain", *(pytest.param(m, marks=pytest.mark.full) for m in ("address", "thread"))])
def test_several_threads_of_the_host(mode: str) -> None:
    environment = {"EMULATOR_THREADS": "3"}
    passes(run(build("gemm", mode), "partial_tiles", 3, environment))
    passes(run(build("wrappers", mode), "atomics", 3, environment))
    done = run(build("broken", mode), "named.crossed", 1, environment)
    assert re.search("deadlock|data race", done.stdout), done.stdout + done.stderr


NVCC = shutil.which("nvcc")


def build_with_nvcc(program: str, targets: tuple[str, ...]) -> Path:
    assert NVCC is not None
    flags = ["-std=c++17", "-O2", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra"]
    flags += [f"-gencode=arch=compute_{target},code=sm_{target}" for target in targets]
    folder = CACHE / f"nvcc-{digest(compiler_version(NVCC), flags)}"
    result = folder / program
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{program}.{os.getpid()}"
        command(NVCC, *flags, EMULATOR / "tests" / f"{program}.cu", "-o", own)
        os.replace(own, result)
    return result


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("program", ["wrappers", pytest.param("gemm", marks=pytest.mark.full)])
def test_same_source_compiles_with_nvcc(program: str) -> None:
    assert build_with_nvcc(program, ("80", "90a")).exists()


@pytest.mark.full
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize("program", ["sm90", "pipeline", "cluster", "orders"])
def test_same_source_compiles_with_nvcc_for_sm_90a(program: str) -> None:
    assert build_with_nvcc(program, ("90a",)).exists()


@pytest.mark.gpu
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize(
    ("program", "case"),
    [("wrappers", case) for case in WRAPPERS]
    + [("sm90", case) for case in SM90]
    + [("gemm", case) for case in GEMM]
    + [("cluster", case) for case in CLUSTER]
    + [("pipeline", "pipeline"), ("cluster", "pair")]
    + [("orders", case) for case in ORDERS],
)
def test_gpu_agrees(program: str, case: str) -> None:
    import torch

    major, minor = torch.cuda.get_device_capability()
    if program in ("sm90", "pipeline", "cluster", "orders") and (major, minor) != (9, 0):
        pytest.skip(f"for compute capability 9.0, and this GPU has {major}.{minor}")
    target = f"{major}{minor}" + ("a" if major >= 9 else "")
    done = run(build_with_nvcc(program, (target,)), case)
    assert done.returncode == 0, done.stdout + done.stderr
