"""What the kernels for compute capability 9.0 became in machine code: the instructions that they are about, and no
complaint of ptxas, which would mean products one after the other."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from alexkern._nvcc import find_nvcc, release
from alexkern.tools import objects, sass
from alexkern.tools.instantiations import demangled
from support.installed import installed

pytestmark = pytest.mark.skipif(objects.missing() is not None, reason=f"{objects.missing()}")

TARGET = "90a"
COMPLAINT = re.compile(r"\(C75\d\d\).*|.*setmaxnreg.*ignored.*")


@cache
def compiled() -> list[objects.Object]:
    return objects.objects(TARGET, [path for path in objects.sources() if path.parent.name == "sm90"])


def complaints(path: Path) -> list[str]:
    return COMPLAINT.findall(json.loads(path.with_suffix(".json").read_text())["words"])


@cache
def programs() -> dict[str, sass.Program]:
    """By the kernel's name; out of the installed module, where it has them."""
    found: dict[str, sass.Program] = {}
    with tempfile.TemporaryDirectory() as folder:
        there = [made for made in installed(TARGET, Path(folder)) if made.source.parent.name == "sm90"]
        for made in there or compiled():
            if made.kernels:
                listed = sass.parse_all(sass.listing(made.path))
                found.update(zip(demangled(list(listed)), listed.values(), strict=True))
    return found


def numbers(name: str) -> list[int]:
    """Columns of a tile; of a convolution also the depth of a step, and blocks of a cluster."""
    return [int(found) for found in re.findall(r"\b\d+\b", name.partition("<")[2])]


def clustered(name: str) -> bool:
    return numbers(name)[2:] == [2]


def test_there_is_every_kernel() -> None:
    names = Counter(name.partition("<")[0].rpartition("::")[2] for name in programs())
    assert names == {"convolve_kernel": 2 * (5 + 3) * 2, "weight_gradient_kernel": 2 * 3}


@pytest.mark.full
def test_ptxas_complains_of_nothing() -> None:
    assert [line for made in compiled() for line in complaints(made.path)] == []


def test_main_loops_multiply_by_wgmma_and_nothing_else() -> None:
    for name, program in programs().items():
        block_n, *block_k = numbers(name)
        whole = sass.count(program.instructions)
        sixteens = block_k[0] // 16 if block_k else 4
        loop = sass.count(sass.main_loop(program.instructions))
        assert loop.get("HGMMA") == sixteens, (name, loop)
        assert "HMMA" not in whole and "LDSM" not in whole and "LDGSTS" not in whole, name
        products = {step.opcode for step in program.instructions if step.is_tensor_core}
        assert products == {f"HGMMA.64x{block_n}x16.F32" + (".BF16" if "bfloat16" in name else "")}, name


@pytest.mark.skipif(release(find_nvcc() or "nvcc") != (13, 0), reason="docs/sm90.md has the loops of CUDA 13.0")
def test_the_page_has_the_length_of_a_step() -> None:
    loops = {name: len(sass.main_loop(program.instructions)) for name, program in programs().items()}
    lengths: dict[tuple[int, ...], list[int]] = {}
    for name, length in sorted(loops.items(), key=lambda loop: loop[1]):
        lengths.setdefault(tuple(numbers(name)[1:]), []).append(length)
    convolution, small, gradient = lengths[64, 1], lengths[48, 1], lengths[()]
    page = " ".join((Path(__file__).parents[1] / "docs" / "sm90.md").read_text().split())
    assert f"a loop of {convolution[0]} to {convolution[-1]} instructions for a warp" in page
    assert small[0] == small[-1] and f"a step of 48 channels {small[0]}, three of them HGMMA" in page
    assert f"a step of the weight gradient {gradient[0]} to {gradient[-1]}, four of them HGMMA" in page
    more = {length - loops[name.replace(", 2>", ", 1>")] for name, length in loops.items() if clustered(name)}
    assert more == {2, 3}, "it is two or three more, says the page"


def test_tiles_come_and_go_by_tma() -> None:
    for name, program in programs().items():
        opcodes = {step.opcode for step in program.instructions}
        tiles = "UTMALDG.3D.MULTICAST" if clustered(name) else "UTMALDG.3D"
        loads = {opcode for opcode in opcodes if opcode.startswith("UTMALDG")}
        assert loads == {"UTMALDG.4D.IM2COL", tiles}, name
        assert ("UTMASTG.3D" in opcodes) == ("convolve_kernel" in name), name
        assert any(opcode.startswith("SYNCS.PHASECHK") for opcode in opcodes), name
        assert any(opcode.startswith("USETMAXREG") for opcode in opcodes), name


def test_blocks_of_a_cluster_meet_once_and_release_stages_without_a_fence_of_the_chip() -> None:
    for name, program in programs().items():
        opcodes = Counter(step.opcode for step in program.instructions)
        remote = opcodes["SYNCS.ARRIVE.TRANS64.RED.A1T0"]
        assert (opcodes["UCGABAR_ARV"], opcodes["UCGABAR_WAIT"], remote) == ((1, 1, 2) if clustered(name) else (0,) * 3)
        assert not [opcode for opcode in opcodes if opcode.startswith("MEMBAR") and "CTA" not in opcode], name


def test_a_tiles_end_is_short() -> None:
    """A part of 64 filters (32 of a tile of 96), from the wait for its buffer to the barrier behind its stores."""
    for name, program in programs().items():
        if "convolve_kernel" not in name:
            continue
        opcodes = [step.opcode for step in program.instructions]
        free = [place for place, step in enumerate(program.instructions) if is_wait_for_stores(step, 1)]
        parts = [opcodes[start:] for start in free]
        filters = 32 if numbers(name)[0] == 96 else 64
        assert len(parts) == numbers(name)[0] // filters, name
        for part in parts:
            barriers = [place for place, opcode in enumerate(part) if opcode.startswith("BAR.SYNC")]
            body = Counter(opcode.partition(".")[0] for opcode in part[: barriers[1]])
            assert sum(body.values()) <= 40 + 2 * filters, (name, body)
            assert (body["STSM"], body["STS"]) == (filters // 16, 0), "four registers an instruction"
            assert "LDG" not in body, "biases come while the tile is multiplied"


def is_wait_for_stores(step: sass.Instruction, pending: int) -> bool:
    return step.opcode.startswith("DEPBAR") and step.operands.replace(" ", "") == f"SB0,{pending:#x}"


def test_no_tma_instruction_is_in_a_loop_of_its_own() -> None:
    """As it is where the compiler does not know that one thread alone gets there."""
    for name, program in programs().items():
        opcodes = Counter(step.opcode for step in program.instructions)
        assert opcodes["BRA.U.ANY"] == 0 and opcodes["ELECT"] <= 1, name
        assert opcodes["UTMACCTL.PF"] == (3 if "convolve_kernel" in name else 2), name


def test_a_complaint_would_be_found(tmp_path: Path) -> None:
    """A kernel that touches its sums between two products."""
    source = tmp_path / "complaint.cu"
    source.write_text(
        """
        #include "cuda/ptx/wgmma.cuh"
        __global__ void __launch_bounds__(128) touches_sums(float* output, std::uint64_t a, std::uint64_t b, int n) {
            float sum[32] = {};
            ptx::wgmma_fence();
            for (int i = 0; i < n; ++i) {
                ptx::wgmma<ptx::bfloat16, 64, false, false>(sum, a, b, true);
                sum[i % 32] += 1.0f;
            }
            ptx::wgmma_commit_group();
            ptx::wgmma_wait_group<0>(sum);
            for (int i = 0; i < 32; ++i) output[32 * threadIdx.x + i] = sum[i];
        }
        """
    )
    (made,) = objects.objects(TARGET, [source])
    assert complaints(made.path)
