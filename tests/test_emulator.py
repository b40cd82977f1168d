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

# Each instruction of csrc/cuda/ptx by itself: programs and their cases. sm90 and cluster are for sm_90a alone.
INSTRUCTIONS = {
    "wrappers": "ldmatrix ldmatrix_trans mma_fp16 mma_bf16 mma_tf32 cp_async cp_async_groups barriers numbers"
    " round_trip warp bits atomics coordinates",
    "sm90": "mbarrier tma_tile tma_im2col tma_im2col_apart tma_store wgmma_fp16 wgmma_bf16 wgmma_transposed_fp16"
    " wgmma_transposed_bf16 stmatrix registers",
    "cluster": "cluster tma_multicast",
}
# Kernels without a fault.
CORRECT = {
    "broken": "turn ring swizzle sum halo rounds lanes blocks access named",
    "orders": "product base staged load global",
    "pipeline": "pipeline",
    "cluster": "pair",
}
# Of no kernel, for PTX's description leaves it open, and what it is here.
OPEN = {"store_in_front": "a negative coordinate", "narrow_boxes": "not as wide as the swizzle"}
GEMM = ["whole_tiles", "partial_tiles", "few_steps", "conv3"]

# Planted faults by the build that has to find them. Plain, by its result:
WRONG = (
    "turn.no_barrier ring.wait_one_short ring.no_wait ring.no_commit ring.wait_behind_the_barrier "
    "ring.refill_before_barrier swizzle.read_otherwise pipeline.released_too_early pipeline.no_barrier_before_store "
    "pipeline.no_wait_for_store pipeline.wrong_swizzle pipeline.wrong_descriptor pipeline.corner_off_by_one "
    "pair.no_wait_for_the_peer pair.released_too_early global.stored_and_read"
)
HERE = r"kernel \w+, block \(\d+, 0, 0\), thread \(\d+, 0, 0\): "
WAITING = r"deadlock.*wait at mbarrier.try_wait of byte \d+, parity 0 \(phase \d+ lacks "
PROXY = r"reads byte \d+ of shared memory, written by ordinary means with no fence.proxy.async since"
UNKNOWN = r"cp.async.bulk.tensor multicast load: .*(no barrier was initialised|is not known to the cluster)"
# Plain, in these words: of a kernel, block and thread,
NAMED = {
    "turn.half_the_block_at_the_barrier": r"deadlock.*threads 0-63 wait at __syncthreads\(\) .*broken.cu",
    "turn.early_return": r"returns, but lanes .* wait for it at __syncthreads\(\)",
    "turn.two_barriers_in_one_warp": r"diverged: is at __syncthreads\(\)",
    "sum.lane_stays_away": "returns, but lanes .* wait for it at __shfl_xor_sync",
    "sum.lane_takes_another_way": "diverged: is at __shfl",
    "sum.mask_too_small": "__shfl_xor_sync .*its own lane 31 is not in the mask",
    "sum.reads_beyond_mask": r"__shfl_xor_sync .*reads from lane \d+, which is not in the mask",
    "halo.one_too_far": "out-of-range access, at byte 960 of a guarded buffer of 960 bytes",
    "halo.shared_too_small": "out-of-range access, at byte 256 of shared memory of 256 bytes",
    "access.misaligned_vector": "misaligned access",
    "access.misaligned_ldmatrix": "ldmatrix.x1: byte 56 of shared memory is not aligned to 16",
    "access.misaligned_cp_async": "cp.async: byte 148 of shared memory is not aligned to 16",
    "access.ldmatrix_outside": "ldmatrix.x1: bytes 528 to 543 of shared memory, which has 512",
    "access.cp_async_outside": "cp.async: bytes 656 to 671 of shared memory, which has 512",
    "access.address_of_global": "the shared address is taken of byte 0 of a guarded buffer",
    "access.null_pointer": "out-of-range access, at address 0x90",
    "access.stack_overflow": "stack overflow",
    "access.endless_loop": "runs on and on without reaching a barrier",
    "named.other_count": r"bar.sync 1, \d+: other warps are at this barrier with the count \d+",
    "named.count_not_whole_warps": "bar.sync 1, 48: the count must be a multiple of 32",
    "named.crossed": r"deadlock.*threads \d.* wait at bar.sync [12], 64",
    "named.too_few": "deadlock.*threads 0-63 wait at bar.sync 1, 96; threads 64-95 have exited",
    "pipeline.no_wait_for_full": "mbarrier.arrive.expect_tx: more threads arrive than the barrier|wrong result",
    "pipeline.wrong_parity": "mbarrier.*|wrong result",
    "pipeline.no_wait_for_empty": "mbarrier.arrive.expect_tx: more threads arrive than the barrier|wrong result",
    "pipeline.no_release": r"deadlock.*lacks 4 of 4 arrivals and 0 bytes",
    "pipeline.too_few_bytes": WAITING + r"0 of 1 arrivals and -16 bytes",
    "pipeline.too_many_bytes": WAITING + r"0 of 1 arrivals and 16 bytes",
    "pipeline.no_fence_of_barriers": r"cp.async.bulk.tensor im2col load: its barrier .* no fence.mbarrier_init",
    "pipeline.no_proxy_fence": "cp.async.bulk.tensor store: " + PROXY,
    "pipeline.one_thread_fences": "cp.async.bulk.tensor store: " + PROXY,
    "pipeline.no_wgmma_fence": "wgmma.mma_async: no wgmma.fence since",
    "pipeline.no_wgmma_wait": "returns with no wgmma.wait_group|wrong result",
    "pipeline.three_warps_multiply": "wgmma.mma_async: another warp of its warpgroup has other descriptors",
    "pair.releases_own_alone": r"deadlock.*block \(\d.*lacks 1 of 2 arrivals.*block \(\d",
    "pair.releases_the_peer_alone": r"deadlock.*block \(\d.*lacks 1 of 2 arrivals.*block \(\d",
    "pair.half_of_the_bytes": r"deadlock.*0 of 1 arrivals and -\d+ bytes|" + HERE + "returns, the last",
    "pair.to_itself_alone": r"deadlock.*0 of 1 arrivals and 1024 bytes",
    "pair.to_a_third_block": "cp.async.bulk.tensor multicast load: to block 2 of its cluster, which has 2",
    "pair.no_cluster_barrier": UNKNOWN,
    "pair.no_wait_for_the_cluster": UNKNOWN,
    "pair.no_fence_of_barriers": "cp.async.bulk.tensor multicast load: .* no fence.mbarrier_init",
    "pair.fenced_for_the_block_alone": r".*the barrier at byte 4096 of .* is not known to the cluster",
    "pair.leaves_early": "(.*of its cluster has returned|returns, the last.* nothing says that)",
    "pair.waits_for_its_last_stage_alone": "returns, the last of its block, and nothing says that it does",
    "pair.waits_at_the_peers": "mbarrier.try_wait: takes addresses of its own block's shared memory",
    "pair.arrives_twice": "barrier.cluster.arrive: arrives again",
    "product.written_behind_the_fence": r"wgmma.mma_async: lane \d+ wrote to registers .* since the last wgmma.fence",
    "product.waits_for_one_that_waits": (
        "deadlock.*threads 0-95 wait at wgmma.wait_group; threads 96-127 wait at mbarrier.try_wait"
    ),
    "product.rows_begin_anywhere": "wgmma.mma_async: rows of 128 bytes that are not aligned to eight",
    "base.taken_for_granted": r"ldmatrix.x1: bytes -\d+ to -\d+ of shared memory",
    "load.fenced_by_another": "cp.async.bulk.tensor load: its barrier .* no fence.mbarrier_init",
}
# and of others.
SAID = {
    "swizzle.none": "bank conflicts: 224",
    "swizzle.too_narrow": "bank conflicts: 32",
    "halo.shared_before": r"block \(\d, 0, 0\): a thread wrote outside of shared memory, at byte -4 of 256",
    "staged.no_swizzle": "bank conflicts: 112",
}
# With AddressSanitizer, of a thread.
OUT_OF_RANGE = {
    "halo.one_too_far": "out-of-range access, at byte 960 of a guarded buffer of 960 bytes",
    "halo.one_before": "out-of-range access, at byte -4 of a guarded buffer of 960 bytes",
    "halo.shared_too_small": "out-of-range access, at byte 256 of shared memory of 256 bytes",
    "halo.shared_before": "out-of-range access, at byte -4 of shared memory of 256 bytes",
    "access.misaligned_vector": "misaligned access",
}
# With the race detector: two accesses,
RACES = (
    "turn.no_barrier ring.refill_before_barrier rounds.write_after_read rounds.read_after_write "
    "lanes.shuffle_for_barrier blocks.no_fence blocks.overlap pair.cluster_barrier_for_a_block staged.no_barrier "
    "load.word_by_the_cluster"
)
# a copy and another access,
COPIES = "ring.wait_one_short ring.no_wait ring.no_commit ring.wait_behind_the_barrier"
# and others.
ASYNCHRONOUS = {
    "pipeline.no_wait_for_full": r"a read of .* by a product of warp|more threads arrive",
    "pipeline.released_too_early": r"a write of .* by a bulk load by .* read of .* by a product of warp",
    "pipeline.a_warp_does_not_fence": r"a read of .* by a bulk store by .* a write of",
    "pipeline.no_barrier_before_store": r"a read of .* by a bulk store by .* a write of",
    "pipeline.no_wait_for_store": r"a write of .* a read of .* by a bulk store by",
    "pair.no_wait_for_the_peer": r"by a bulk load by block \(\d+, 0, 0\), thread \(32, 0, 0\)",
    "pair.released_too_early": r"a write of .* by a bulk load by .* a read of",
    "global.written_and_loaded": r"a read of .* by a bulk load, by the async proxy",
    "global.stored_and_read": r"a read of .* a write of .* by a bulk store by",
}
# Those of them that no result shows.
UNSEEN = (
    "rounds.write_after_read rounds.read_after_write blocks.no_fence blocks.overlap pair.cluster_barrier_for_a_block "
    "load.word_by_the_cluster global.written_and_loaded"
)
RACE = r"kernel \w+: data race .* by .*block \(\d+, 0, 0\), thread \(\d+, 0, 0\), and before it, unordered, a"
BROKEN = [
    *((case, "plain", "wrong result") for case in WRONG.split()),
    *((case, "plain", HERE + words) for case, words in NAMED.items()),
    *((case, "plain", words) for case, words in SAID.items()),
    *((case, "address", HERE + words) for case, words in OUT_OF_RANGE.items()),
    *((case, "thread", RACE) for case in RACES.split()),
    *((case, "thread", RACE + " write of .* by a copy by block") for case in COPIES.split()),
    *((case, "thread", f"data race .* {words}") for case, words in ASYNCHRONOUS.items()),
]


def cases(programs: dict[str, str]) -> list[tuple[str, str]]:
    return [(program, case) for program, names in programs.items() for case in names.split()]


def holder(case: str) -> str:
    """The program that has this kernel without a fault, and with them."""
    return next(program for program, name in cases(CORRECT) if name == case.partition(".")[0])


def in_builds(*programs: tuple[str, str]) -> list[Any]:
    """(program, case, mode): plain and with either sanitizer; the long half has AddressSanitizer's builds of the large
    programs, which take longest to compile and have no fault planted that needs it."""
    return [
        pytest.param(*one, mode, marks=[pytest.mark.full] if mode == "address" and one[0] != "broken" else [])
        for one in programs
        for mode in ("plain", "address", "thread")
    ]


def test_programs_hold_the_cases_named_here() -> None:
    named = {*cases(INSTRUCTIONS), *cases(CORRECT), *((holder(case), case) for case, *_ in BROKEN)}
    named |= {("gemm", case) for case in GEMM} | {("sm90", case) for case in OPEN}
    for program in {program for program, _ in named}:
        listed = subprocess.run([build(program, "plain")], capture_output=True, text=True, check=True).stdout
        assert sorted(listed.split()) == sorted(case for other, case in named if other == program)
    assert {entry[1:] for entry in (*probes.EVERYWHERE, *probes.ON_HOPPER)} <= {*cases(INSTRUCTIONS)}


@pytest.mark.parametrize(
    "mode", ["plain", *(pytest.param(mode, marks=pytest.mark.full) for mode in ("thread", "address", "portable"))]
)
@pytest.mark.parametrize(("program", "case"), cases(INSTRUCTIONS))
def test_instruction(program: str, case: str, mode: str) -> None:
    passes(run(build(program, mode), case, SEEDS[mode]))


@pytest.mark.parametrize("case", OPEN)
def test_what_ptx_leaves_open(case: str) -> None:
    (entry,) = [entry for entry in probes.OPEN if entry[2] == case]
    with Children() as children:
        probe = probes.attempt(build("sm90", "plain"), entry[0], case, False, children, limit=60)
    assert probe.passed is False
    assert OPEN[case] in probe.reason and probe.verdict.startswith("undocumented: ")


@pytest.mark.parametrize(("program", "case", "mode"), in_builds(*cases(CORRECT)))
def test_correct_kernel_passes(program: str, case: str, mode: str) -> None:
    passes(run(build(program, mode), case, SEEDS[mode]))


@pytest.mark.parametrize(("case", "mode", "words"), BROKEN, ids=[f"{case}-{mode}" for case, mode, _ in BROKEN])
def test_broken_kernel_is_found(case: str, mode: str, words: str) -> None:
    done = run(build(holder(case), mode), case, SEEDS[mode])
    assert done.returncode != 0
    assert re.search(words, done.stdout + done.stderr), done.stdout + done.stderr


@pytest.mark.parametrize("case", UNSEEN.split())
def test_race_that_changes_no_result(case: str) -> None:
    passes(run(build(holder(case), "plain"), case, SEEDS["plain"]))


def test_late_delivery_is_what_finds_a_wait_one_stage_short() -> None:
    program = build("broken", "plain")
    passes(run(program, "ring.wait_one_short", 6, {"EMULATOR_DELIVERY": "early"}))
    for delivery in ("late", "mixed"):
        done = run(program, "ring.wait_one_short", 1, {"EMULATOR_DELIVERY": delivery})
        assert "wrong result" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("late", ["EMULATOR_DELIVERY", "EMULATOR_PRODUCTS"])
def test_late_copies_and_late_products_are_drawn_by_themselves(late: str) -> None:
    # A stage released before its products are done is seen where those are late, whatever the copies do.
    program = build("pipeline", "plain")
    environment = {"EMULATOR_DELIVERY": "early", "EMULATOR_PRODUCTS": "early", late: "late"}
    done = run(program, "pipeline.released_too_early", 6, environment)
    assert ("wrong result" in done.stdout) == (late == "EMULATOR_PRODUCTS"), done.stdout + done.stderr
    passes(run(program, "pipeline", 6, environment))


@pytest.mark.parametrize(("program", "case", "mode"), in_builds(*(("gemm", case) for case in GEMM[:3])))
def test_gemm(program: str, case: str, mode: str) -> None:
    passes(run(build(program, mode), case, SEEDS[mode]))


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
ON_SM90 = ("sm90", "pipeline", "cluster", "orders")


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
@pytest.mark.parametrize(
    "program",
    ["wrappers", *(pytest.param(name, marks=pytest.mark.full) for name in ("gemm", *ON_SM90))],
)
def test_same_source_compiles_with_nvcc(program: str) -> None:
    assert build_with_nvcc(program, ("90a",) if program in ON_SM90 else ("80", "90a")).exists()


@pytest.mark.gpu
@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize(
    ("program", "case"),
    [
        *cases(INSTRUCTIONS),
        *(("gemm", case) for case in GEMM),
        *(one for one in cases(CORRECT) if one[0] != "broken"),  # whose kernels are written for the emulator
    ],
)
def test_gpu_agrees(program: str, case: str) -> None:
    import torch

    major, minor = torch.cuda.get_device_capability()
    if program in ON_SM90 and (major, minor) != (9, 0):
        pytest.skip(f"for compute capability 9.0, and this GPU has {major}.{minor}")
    target = f"{major}{minor}" + ("a" if major >= 9 else "")
    done = run(build_with_nvcc(program, (target,)), case)
    assert done.returncode == 0, done.stdout + done.stderr
