"""The assembly in csrc/cuda/ptx, as text: read out of the headers, performed by what the PTX ISA says of each
instruction, and compared with the emulator's stand-ins on the same operands. A slip in a string is a difference."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from alexkern._nvcc import find_nvcc
from support.emulator import ROOT, build
from support.ptx.header import Assembly, Wrapper, read_wrappers, wrappers_of
from support.ptx.machine import Fault
from support.ptx.perform import Performer
from support.ptx.script import Outcome, Script, on_the_emulator
from support.ptx.scripts import all_scripts

HEADERS = ROOT / "csrc" / "cuda" / "ptx"
# What other targets than sm_90a have as well; the other headers are for that one alone.
EVERYWHERE = {"barrier.cuh", "cp_async.cuh", "ldmatrix.cuh", "mma.cuh", "numbers.cuh"}
TARGETS = ("80", "86", "89", "90", "90a", "100a", "120")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


@pytest.fixture(scope="module")
def wrappers(scratch: Path) -> dict[str, Wrapper]:
    return read_wrappers(HEADERS, scratch)


@pytest.fixture(scope="module")
def emulated(scratch: Path) -> list[tuple[Script, Outcome]]:
    """All scripts, and what the emulator makes of them."""
    found = all_scripts()
    return list(zip(found, on_the_emulator(build("script", "plain"), found, scratch), strict=True))


def differences(performer: Performer, expected: list[tuple[Script, Outcome]], about: str) -> Iterator[str]:
    """Of the scripts whose names begin so, in words."""
    for script, outcome in expected:
        if not script.name.startswith(about):
            continue
        try:
            difference = performer.run(script).difference(outcome, script)
        except Fault as fault:
            difference = str(fault)
        if difference:
            yield f"{script.name}: {difference}"


def test_text_does_what_the_stand_ins_do(wrappers: dict[str, Wrapper], emulated: list[tuple[Script, Outcome]]) -> None:
    performer = Performer(wrappers)
    assert list(differences(performer, emulated, "")) == []
    everything = {(name, one.condition) for name, wrapper in wrappers.items() for one in wrapper.assembly}
    assert performer.performed == everything, "a wrapper that no script calls"


def test_assembly_stands_in_these_headers_alone(wrappers: dict[str, Wrapper]) -> None:
    sources = [path for path in (ROOT / "csrc" / "cuda").rglob("*") if path.suffix in {".cu", ".cuh", ".h", ".cpp"}]
    statement = re.compile(r"\basm\b\s*(volatile)?\s*\(")
    assert [path for path in sources if path.parent != HEADERS and statement.search(path.read_text())] == []
    written = sum(len(statement.findall(path.read_text())) for path in HEADERS.glob("*.cuh"))
    # Of wgmma one macro stands for ten; one statement, without a text, is for the compiler.
    assert sum(len(wrapper.assembly) for wrapper in wrappers.values()) == written - 2 + 10


# ---- slips: a header, what stands there exactly once, what stands there instead, and the scripts that tell
SLIPS = [
    ("cp_async.cuh", "[%0], [%1], 16, %2;", "[%0], [%1], 16;", "cp_async"),
    ("cp_async.cuh", "[%0], [%1], 8, %2;", "[%0], [%1], 4, %2;", "cp_async"),
    ("cp_async.cuh", "cp.async.commit_group;", "", "cp_async"),
    ("cp_async.cuh", "cp.async.wait_group %0;", "cp.async.bulk.wait_group %0;", "cp_async"),
    ("mbarrier.cuh", "@!complete bra again;", "@complete bra again;", "mbarriers"),
    ("mbarrier.cuh", "@!complete bra again;", "", "tma_load_3d"),
    ("mbarrier.cuh", "arrive.expect_tx.shared::cta", "arrive.shared::cta", "tma_load_3d"),
    ("mbarrier.cuh", '"r"(mbarrier), "r"(bytes)', '"r"(bytes), "r"(mbarrier)', "tma_load_3d"),
    ("mbarrier.cuh", "fence.mbarrier_init.release.cluster;", "fence.proxy.async.shared::cta;", "cluster"),
    ("mbarrier.cuh", '::"r"(mbarrier), "r"(arrivals) : "memory"', '::"r"(mbarrier), "r"(arrivals)', "mbarriers"),
    ("tma.cuh", "fence.proxy.async.shared::cta;", "fence.proxy.async.global;", "tma_store_3d"),
    ("tma.cuh", "{%7, %8}", "{%8, %7}", "tma_load_im2col"),
    ("tma.cuh", '"r"(c), "r"(w), "r"(h)', '"r"(c), "r"(h), "r"(w)', "tma_load_im2col"),
    ("tma.cuh", "[%0], [%1, {%3, %4, %5}]", "[%0], [%1, {%4, %3, %5}]", "tma_load_3d"),
    (
        "tma.cuh",
        'bytes.multicast::cluster [%0], "\n        "[%1, {%3, %4, %5}], [%2], %6;',
        'bytes [%0], "\n        "[%1, {%3, %4, %5}], [%2];',
        "tma_load_3d_multicast",
    ),
    ("tma.cuh", "[%0, {%2, %3, %4}], [%1]", "[%0, {%2, %4, %3}], [%1]", "tma_store_3d"),
    ("tma.cuh", "cp.async.bulk.commit_group;", "cp.async.commit_group;", "tma_store_3d"),
    ("tma.cuh", "cp.async.bulk.wait_group.read %0;", "cp.async.wait_group %0;", "tma_store_3d"),
    ("cluster.cuh", '"r"(address), "r"(rank)', '"r"(rank), "r"(address)', "cluster"),
    ("cluster.cuh", "mbarrier.arrive.shared::cluster.b64", "mbarrier.arrive.shared::cta.b64", "cluster"),
    ("barrier.cuh", "bar.arrive %0, %1;", "bar.sync %0, %1;", "arrives and goes on"),
    ("barrier.cuh", "bar.sync %0, %1;", "bar.arrive %0, %1;", "barriers"),
    ("ldmatrix.cuh", "x4.shared.b16 {%0, %1, %2, %3}", "x4.shared.b16 {%0, %2, %1, %3}", "ldmatrix"),
    ("ldmatrix.cuh", "x2.trans.shared", "x2.shared", "ldmatrix"),
    ("stmatrix.cuh", "{%1, %2, %3, %4}", "{%1, %3, %2, %4}", "stmatrix"),
    ("stmatrix.cuh", "x4.shared.b16 [", "x4.trans.shared.b16 [", "stmatrix"),
    ("stmatrix.cuh", "x4.shared.b16 [%0], {%1, %2, %3, %4}", "x2.shared.b16 [%0], {%1, %2}", "stmatrix"),
    ("stmatrix.cuh", '"r"(registers[2]), "r"(registers[3])', '"r"(registers[3]), "r"(registers[2])', "stmatrix"),
    ("stmatrix.cuh", ': "memory");', ");", "stmatrix"),
    ("mma.cuh", "f32.bf16.bf16.f32", "f32.f16.f16.f32", "mma"),
    ("numbers.cuh", "cvt.rn.f16x2.f32 %0, %1, %2;", "cvt.rn.f16x2.f32 %0, %2, %1;", "numbers"),
    ("numbers.cuh", "cvt.rn.bf16.f32", "cvt.rz.bf16.f32", "numbers"),
    ("warpgroup.cuh", "setmaxnreg.dec", "setmaxnreg.inc", "registers"),
    ("warpgroup.cuh", "selp.u32 %0, 1, 0", "selp.u32 %0, 0, 1", "registers"),
    ("wgmma.cuh", 'ALEXKERN_WGMMA("bf16", 128, ', 'ALEXKERN_WGMMA("f16", 128, ', "wgmma<bfloat16,128"),
    ("wgmma.cuh", 'ALEXKERN_WGMMA("f16", 96, 48, 49,', 'ALEXKERN_WGMMA("f16", 96, 49, 48,', "wgmma<float16,96"),
    ("wgmma.cuh", '#TRANSPOSED_A ", %" #TRANSPOSED_B', '#TRANSPOSED_B ", %" #TRANSPOSED_A', "wgmma<float16,64"),
    ("wgmma.cuh", "setp.ne.b32", "setp.eq.b32", "wgmma<float16,64"),
    ("wgmma.cuh", "accumulate, 1, 1,", "accumulate, 1, -1,", "wgmma<float16,64"),
    ("wgmma.cuh", "%64, %65, %66", "%65, %64, %66", "wgmma<bfloat16,192"),
    ("wgmma.cuh", '"+f"(d[i]), "+f"(d[i + 1])', '"=f"(d[i]), "+f"(d[i + 1])', "wgmma<float16,64"),
    ("wgmma.cuh", "wgmma.fence.sync.aligned;", "wgmma.commit_group.sync.aligned;", "wgmma<float16,64"),
    ("wgmma.cuh", "wgmma.wait_group.sync.aligned %0;", "wgmma.wait_group.sync.aligned 1;", "wgmma<float16,64"),
]  # fmt: skip


Slip = tuple[str, str, str, str]


def with_slip(slip: Slip, wrappers: dict[str, Wrapper], folder: Path) -> dict[str, Wrapper]:
    header, old, new, _ = slip
    copy = folder / "ptx"
    shutil.copytree(HEADERS, copy)
    text = (copy / header).read_text()
    assert text.count(old) == 1, f"{header} has {old!r} {text.count(old)} times"
    (copy / header).write_text(text.replace(old, new))
    kept = {name: one for name, one in wrappers.items() if one.file != header}
    return {**kept, **{one.name: one for one in wrappers_of(copy / header, folder) if one.file == header}}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: f"{slip[0]}-{slip[1]}-{slip[2]}")
def test_a_slip_is_found(
    slip: Slip, wrappers: dict[str, Wrapper], emulated: list[tuple[Script, Outcome]], tmp_path: Path
) -> None:
    slipped = with_slip(slip, wrappers, tmp_path)
    assert next(differences(Performer(slipped), emulated, about=slip[3]), None) is not None


# ---- ptxas


def declared(assembly: Assembly) -> tuple[str, str]:
    """Declarations of the operands, and the text with them in their places."""
    kinds = {"r": ("b32", "r"), "l": ("b64", "l"), "h": ("b16", "h"), "f": ("f32", "f")}
    lines, text = [], assembly.text
    for number in reversed(range(len(assembly.operands))):
        kind = assembly.operands[number].constraint.strip("=+")
        if kind == "n":
            name = {"kRegisters": "40", "kPending": "1"}.get(assembly.operands[number].expression, "0")
        else:
            size, letter = kinds[kind]
            name = f"%{letter}{number}"
            lines.append(f".reg .{size} {name};")
        text = re.sub(rf"(?<!%)%{number}\b", name, text)
    return "\n".join(lines), text.replace("%%", "%")


def module(wrappers: dict[str, Wrapper], target: str) -> str:
    """Each piece of assembly in a kernel of its own."""
    kernels = []
    for wrapper in wrappers.values():
        for number, assembly in enumerate(wrapper.assembly):
            if target == "90a" or wrapper.file in EVERYWHERE:
                declarations, text = declared(assembly)
                name = re.sub(r"\W", "_", f"{wrapper.name}_{number}")
                kernels.append(f".entry {name}()\n.maxntid 128\n{{\n{declarations}\n{{\n{text}\n}}\nret;\n}}\n")
    return f".version 8.7\n.target sm_{target}\n.address_size 64\n" + "".join(kernels)


def assembled(wrappers: dict[str, Wrapper], target: str, folder: Path) -> subprocess.CompletedProcess[str]:
    source = folder / f"{target}.ptx"
    source.write_text(module(wrappers, target))
    nvcc = find_nvcc()
    assert nvcc is not None
    command = [nvcc, f"-arch=sm_{target}", "-cubin", str(source), "-o", str(folder / f"{target}.cubin")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
@pytest.mark.parametrize("target", TARGETS)
def test_ptxas_accepts_each_text(wrappers: dict[str, Wrapper], target: str, scratch: Path) -> None:
    done = assembled(wrappers, target, scratch)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
def test_no_slip_is_one_that_ptxas_would_find(wrappers: dict[str, Wrapper], tmp_path: Path) -> None:
    slipped = {}
    for number, slip in enumerate(SLIPS):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, wrapper in with_slip(slip, wrappers, folder).items():
            if wrapper.file == slip[0] and wrapper != wrappers[name]:
                slipped[f"{name}, slip {number}"] = replace(wrapper, name=f"{name}_{number}")
    done = assembled(slipped, "90a", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(find_nvcc() is None, reason="needs nvcc")
def test_ptxas_refuses_what_it_does_not_know(wrappers: dict[str, Wrapper], tmp_path: Path) -> None:
    slip = ("cp_async.cuh", "ca.shared.global [%0], [%1], 8", "cg.shared.global [%0], [%1], 8", "")
    done = assembled(with_slip(slip, wrappers, tmp_path), "80", tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "'cp.async': unexpected value '8'" in said, said
