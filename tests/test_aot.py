"""What ahead-of-time compilation reads and computes: machine-code listings, main loops, occupancy."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.optional import need

need("triton")

from alexkern.bench import static_cuda  # noqa: E402
from alexkern.cost.chips import CHIPS  # noqa: E402
from alexkern.cost.model import blocks_per_multiprocessor, limits  # noqa: E402
from alexkern.tools import aot, cuda_budget, objects, sass, triton_budget  # noqa: E402
from alexkern.tools import report as table  # noqa: E402
from alexkern.tools.instantiations import Instantiation, _instantiation, _short  # noqa: E402
from alexkern.tools.rehearsal import Launch  # noqa: E402
from alexkern.tools.workloads import Workload  # noqa: E402

# A product as cuobjdump lists it, cut down: a prologue with its own copies, a loop that waits, the main loop with a
# loop around it, and an epilogue.
LISTING = """
Resource usage:
 Common:
  GLOBAL:0
 Function matmul:
  REG:191 STACK:16 SHARED:1024 LOCAL:8 CONSTANT[0]:584 TEXTURE:0 SURFACE:0 SAMPLER:0

	code for sm_90a
		Function : matmul
	.headerflags	@"EF_CUDA_TEXMODE_UNIFIED EF_CUDA_64BIT_ADDRESS EF_CUDA_ACCELERATORS EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;                                 /* 0x00000a00ff017b82 */
                                                                                          /* 0x000e620000000800 */
        /*0010*/                   LDGSTS.E.BYPASS.128 [R57], desc[UR18][R24.64], P0 ;    /* 0x0000000018397fae */
        /*0020*/                   LDGSTS.E [R57+0x800], desc[UR18][R26.64], P0 ;         /* 0x008000001a397fae */
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R3 ;         /* 0x000e620000000800 */
        /*0040*/              @!P0 BRA 0x30 ;                                             /* 0x0000000800908947 */
        /*0050*/                   IMAD.MOV.U32 R4, RZ, RZ, RZ ;                          /* 0x0000000800908947 */
        /*0060*/                   HGMMA.64x128x16.F32.BF16 R88, gdesc[UR8], R88 ;        /* 0x01e00000085879f0 */
        /*0070*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;  /* 0x01e00000085879f0 */
        /*0080*/                   LDGSTS.E.BYPASS.128 [R57], desc[UR18][R24.64], !P0 ;   /* 0x0000000018397fae */
        /*0090*/               @P1 BRA 0x60 ;                                             /* 0x0000000800908947 */
        /*00a0*/                   STL [R1], R4 ;                                         /* 0x0000000800908947 */
        /*00b0*/              @!P2 BRA P3, 0x50 ;                                         /* 0x0000000800908947 */
        /*00c0*/                   LDG.E.U8.CONSTANT R4, desc[UR18][R24.64] ;             /* 0x0000000018397fae */
        /*00d0*/                   LDG.E R4, desc[UR18][R24.64] ;                         /* 0x0000000018397fae */
        /*00e0*/                   STG.E.128 desc[UR18][R24.64], R4 ;                     /* 0x0000000018397fae */
        /*00f0*/                   STG.E.64 desc[UR18][R24.64], R4 ;                      /* 0x0000000018397fae */
        /*0100*/              @!PT BRA 0x200 ;                                            /* 0x0000000018397fae */
        /*0110*/                   EXIT ;                                                 /* 0x0000000018397fae */
        /*0120*/                   BRA 0x120;                                             /* 0x0000000018397fae */
"""


OTHER = LISTING.replace("matmul", "other")


def test_a_listing_is_read() -> None:
    program = sass.parse(LISTING)
    assert (program.registers, program.stack, program.local) == (191, 16, 8)
    assert len(program.instructions) == 19
    wait = program.instructions[4]
    assert (wait.address, wait.opcode, wait.operands) == (0x40, "BRA", "0x30")
    assert sass.count(program.instructions)["HGMMA"] == 2


def test_the_main_loop_is_the_innermost_that_multiplies() -> None:
    loops = sass.loops(sass.parse(LISTING).instructions)
    spans = {(body[0].address, body[-1].address) for body in loops}
    assert spans == {(0x30, 0x40), (0x60, 0x90), (0x50, 0xB0)}  # not the trap behind the kernel, which jumps to itself
    body = sass.main_loop(sass.parse(LISTING).instructions)
    assert [step.root for step in body] == ["HGMMA", "HGMMA", "LDGSTS", "BRA"]
    assert [step.is_tensor_core for step in body] == [True, True, False, False]


def test_without_tensor_cores_the_main_loop_has_the_most_multiply_adds() -> None:
    """However short another is that moves as much."""
    load, multiply = "LDG.E R4, [R2]", "FFMA R1, R2, R3, R4"
    words = [load, "BRA 0x0", load, multiply, "FFMA.FTZ R1, R2, R3, R4", "BRA 0x20", load, multiply, "BRA 0x60"]
    text = "".join(f"        /*{16 * place:04x}*/      {one} ;\n" for place, one in enumerate(words))
    assert [step.address for step in sass.main_loop(sass._instructions(text))] == [0x20, 0x30, 0x40, 0x50]


def test_a_kernel_without_a_working_loop_has_no_main_loop() -> None:
    waiting = [line for line in LISTING.splitlines() if "HGMMA" not in line and "LDGSTS" not in line]
    assert sass.main_loop(sass.parse("\n".join(waiting)).instructions) == ()


def test_accesses_are_counted_by_width() -> None:
    instructions = sass.parse(LISTING).instructions
    assert sass.accesses(instructions, "load") == {8: 1, 32: 1}
    assert sass.accesses(instructions, "store") == {64: 1, 128: 1}
    assert sass.accesses(instructions, "copy") == {32: 1, 128: 2}


def test_tensor_core_instructions() -> None:
    opcodes = ["HMMA.16816.F32.BF16", "HGMMA.64x128x16.F32.BF16", "UTCHMMA", "UTCHMMA.2CTA"]
    others = ["FFMA", "HFMA2.MMA", "UTCBAR", "HADD2"]
    assert [one for one in opcodes + others if sass.Instruction(0, one, "").is_tensor_core] == opcodes


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "wanted one function and its resources, got no function"),
        (LISTING + OTHER, r"wanted one function and its resources, got \['matmul', 'other'\]"),
        (LISTING + LISTING, "listed twice"),
        (LISTING.replace("n : matmul", "n : other"), r"code of \['other'\], but resources of \['matmul'\]"),
    ],
)
def test_anything_but_one_function_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        sass.parse(text)


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "blocks"),
    [
        (90, 168, 192 * 1024, 12, 1),
        (80, 128, 80 * 1024, 8, 2),  # by registers and by shared memory: 2 * 81 KiB of 164
        (80, 128, 96 * 1024, 8, 1),
        (90, 96, 72 * 1024, 8, 2),  # by registers; 3 by shared memory
        (90, 32, 0, 4, 16),  # by warps, and by registers
        (90, 16, 0, 1, 32),  # by blocks
        (90, 255, 0, 4, 2),
        (90, 255, 0, 8, 1),
        (90, 255, 0, 16, 0),  # 16 warps of 255 registers are more than there are
        (80, 32, 163 * 1024, 4, 1),
        (80, 32, 163 * 1024 + 1, 4, 0),
        (100, 32, 227 * 1024, 4, 1),
        (100, 32, 227 * 1024 + 1, 4, 0),
        (89, 32, 0, 1, 24),
        (86, 32, 0, 4, 12),  # by warps: 48
        (120, 32, 99 * 1024, 4, 1),
        (120, 32, 99 * 1024 + 1, 4, 0),
    ],
)
def test_occupancy(target: int, registers: int, shared: int, warps: int, blocks: int) -> None:
    assert blocks_per_multiprocessor(target, registers, shared, warps) == blocks


def test_occupancy_counts_tensor_memory() -> None:
    assert [blocks_per_multiprocessor(100, 32, 0, 4, columns) for columns in (0, 128, 256, 512)] == [16, 4, 2, 1]


def test_occupancy_knows_its_targets() -> None:
    with pytest.raises(ValueError, match="target must be one of 80, 86, 89, 90, 100, 120, got 75"):
        limits(75)


def test_the_table_has_a_row_for_each_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = SimpleNamespace(
        workload="conv1", call="forward", kernel="conv_kernel", target=90, tile="128 x 64", registers=168, stack=12,
        local=4, shared=49152, blocks=2, main_loop={"HGMMA": 4, "LDSM": 2}, products=3, copies=(16,), loads=(),
        stores=(4, 8),
    )  # fmt: skip
    monkeypatch.setattr(aot, "reports", lambda *_: [made, made])
    assert aot.main([]) == 0
    head, *rows = [[cell.strip() for cell in line.split(" | ")] for line in capsys.readouterr().out.splitlines()]
    assert tuple(head) == aot.COLUMNS and len(rows) == 2
    counts = "6/3 HGMMA 4, LDSM 2 LDGSTS.16 STG.8"
    assert rows[0] == ["conv1", "forward", "conv_kernel", "90", "128 x 64", "168", "16", "49152", "2", counts]


# What a kernel may cost, on kernels that nobody compiled.

KERNEL = Instantiation(
    target=80, kernel="a_kernel", num_warps=4, registers=99, stack=0, local=0, shared=2048, blocks=2,
    opcodes={"FFMA": 9}, main_loop={}, products=0, commits=0, loads={}, stores={}, copies={}, operator="dropout",
    launched=True, spilled=0, static_shared=0,
)  # fmt: skip
PRODUCT = replace(KERNEL, kernel="k<mma::Half, 4>", main_loop={"HMMA": 4}, copies={128: 2})
WGMMA = replace(
    KERNEL, target=90, kernel="k", operator="sm90", main_loop={"HGMMA": 4, "IADD": 48},
    opcodes={"UTMALDG": 2, "ELECT": 1},
    products=4, commits=2,
)  # fmt: skip
RUNS = replace(KERNEL, operator="space_to_depth", kernel="relayout_kernel<float, 4>", stores={128: 1, 8: 1})
SUM = replace(
    KERNEL, operator="conv2d_relu", kernel="reduce_kernel<float, 2>", opcodes={"FFMA": 300, "IADD": 20, "NOP": 300}
)
DROPOUT = replace(KERNEL, kernel="dropout_kernel<float>", loads={128: 1}, stores={128: 2})
# What a budget says, but for the kernel's own figures.
COPIES = "copies to shared memory by width in bits %(copies)s; wanted"
STORES = "stores by width in bits %(stores)s; wanted"
LOCAL = "accesses to local memory, %(stack)s bytes of stack and %(local)s of local memory at 99 registers; wanted none"
STEP = "instructions in the main loop, {} of them R2UR; wanted 52 and none"
SMALL = "instructions, {} of them MUFU; wanted at most 320 and none"
ATOMIC = "atomic operations {'ATOMG': 2, 'RED': 1}; every sum has one order"
UNLAUNCHED = "no launch of it is known, nor its shared memory: a case of its reference has to make one"
ELSEWHERE = "instructions ['LDG', 'STG'] in a kernel that is for sm_90a alone"
RELAYOUT = "loads by width in bits %(loads)s; wanted four values at once, and single ones"


@pytest.mark.parametrize(
    ("kernel", "changes", "broken"),
    [
        (KERNEL, {}, ""),
        (KERNEL, {"launched": False}, UNLAUNCHED),
        (KERNEL, {"spilled": 8}, "8 bytes of spilled registers, at 99 registers"),
        (KERNEL, {"opcodes": {"ATOMG": 2, "RED": 1, "LDG": 1}}, ATOMIC),
        (KERNEL, {"opcodes": {"STL": 2, "LDL": 3}, "local": 8, "stack": 4}, "5 " + LOCAL),
        (KERNEL, {"stack": 4}, ""),
        (KERNEL, {"local": 8}, "0 " + LOCAL),
        (KERNEL, {"local": 4}, "0 " + LOCAL),
        (KERNEL, {"shared": 163 * 1024}, ""),
        (KERNEL, {"shared": 166_913, "blocks": 0}, "166913 bytes of shared memory; a block has 166912 at most"),
        (KERNEL, {"tensor_memory": 512}, ""),
        (KERNEL, {"tensor_memory": 513}, "513 columns of tensor memory; there are 512"),
        (KERNEL, {"blocks": 0}, "no block fits: 99 registers, 4 warps, 2048 bytes"),
        (PRODUCT, {}, ""),
        (PRODUCT, {"main_loop": {"FFMA": 4}}, "no HMMA in the main loop %(main_loop)s"),
        (PRODUCT, {"kernel": "k<mma::Fp32, 4>", "main_loop": {"FFMA": 4}}, ""),
        (PRODUCT, {"copies": {64: 1, 128: 1}}, COPIES + " [128] only"),
        (PRODUCT, {"kernel": "k<mma::Half, 8>", "copies": {64: 1, 128: 1}}, ""),
        (PRODUCT, {"kernel": "k<mma::Half, 8>", "copies": {32: 1}}, COPIES + " [64, 128] only"),
        (PRODUCT, {"copies": {}}, COPIES + " [128] only"),
        (WGMMA, {}, ""),
        (WGMMA, {"main_loop": {"HGMMA": 4, "IADD": 49}}, "53 " + STEP.format(0)),
        (WGMMA, {"main_loop": {"HGMMA": 4, "R2UR": 1}}, "5 " + STEP.format(1)),
        (WGMMA, {"opcodes": {"UTMALDG": 2, "ELECT": 2}}, "2 ELECT; wanted one, of the thread that fetches"),
        (WGMMA, {"opcodes": {"UTMALDG": 2, "MUFU": 1}}, "1 MUFU: what is divided is divided by multiplying"),
        (WGMMA, {"main_loop": {"IADD": 4}}, "no HGMMA in the main loop %(main_loop)s"),
        (WGMMA, {"commits": 3}, "3 of 4 wgmma are waited for one by one"),
        (WGMMA, {"products": 3, "commits": 3}, ""),
        (WGMMA, {"opcodes": {}}, "operands come by loads, not by TMA"),
        (WGMMA, {"copies": {128: 1}}, "operands come by %(copies)s, not by TMA"),
        (WGMMA, {"target": 80, "launched": False, "opcodes": {"EXIT": 1, "MOV": 2}, "main_loop": {}}, ""),
        (WGMMA, {"target": 80, "opcodes": {"EXIT": 1, "STG": 2, "LDG": 1}}, ELSEWHERE),
        (DROPOUT, {}, ""),
        (DROPOUT, {"loads": {64: 2}}, "loads by width in bits %(loads)s; wanted 128"),
        (DROPOUT, {"stores": {64: 2}}, STORES + " 128"),
        (DROPOUT, {"kernel": "dropout_kernel<float>::x", "stores": {64: 2}}, ""),
        (DROPOUT, {"operator": "max_pool2d", "stores": {64: 2}}, ""),
        (RUNS, {"loads": {16: 1, 64: 2}}, ""),
        (RUNS, {"loads": {16: 1, 128: 2}}, RELAYOUT),
        (RUNS, {"loads": {32: 1, 128: 2}, "stores": {128: 1, 64: 1}}, STORES + " 128, and beside them only [8]"),
        (SUM, {}, ""),
        (SUM, {"opcodes": {"FFMA": 300, "IADD": 21}}, "321 " + SMALL.format(0)),
        (SUM, {"opcodes": {"FFMA": 3, "MUFU": 1}}, "4 " + SMALL.format(1)),
        (SUM, {"kernel": "reduce_kernel<float, 22>", "opcodes": {"MUFU": 1}}, ""),
        (SUM, {"operator": "dropout", "opcodes": {"MUFU": 1}}, ""),
    ],
)
def test_what_breaks_a_budget(kernel: Instantiation, changes: dict[str, Any], broken: str) -> None:
    kernel = replace(kernel, **changes)
    where = f"{kernel.operator}: {kernel.kernel} on sm_{kernel.target}"
    assert cuda_budget.violations(kernel) == [f"{where}: {line % vars(kernel)}" for line in broken.splitlines()]


def launch(*args: Any, grid: tuple[int, ...] = (1, 2, 3), **kwargs: Any) -> aot.Launch:
    """Of a kernel with two pointers and two constants."""
    names = ("x", "y", "BLOCK_M", "OTHER")
    parameters = [SimpleNamespace(name=name, is_constexpr=name.isupper()) for name in names]
    kernel = SimpleNamespace(__name__="k", arg_names=names, params=parameters, device_caches={})
    return aot.Launch(kernel, grid, args, kwargs)  # type: ignore[arg-type]


def test_a_launch_knows_its_constants_and_its_tile() -> None:
    one = launch("a pointer", "another", 64, OTHER=2, num_warps=4, num_stages=3, maxnreg=128)
    assert one.constants == {"BLOCK_M": 64, "OTHER": 2, "num_warps": 4, "num_stages": 3}
    assert one.tile == "BLOCK_M=64 num_warps=4 num_stages=3"


def test_what_compiles_to_the_same_code_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is reported for each launch, with its own grid, in their order."""
    one, other, wide = launch(1), launch(2), launch(1, grid=(9, 9, 9))
    calls = {"forward": [one, other], "backward": [wide]}
    asked: list[Any] = []
    compiled: list[Any] = []
    monkeypatch.setattr(aot, "rehearsed", lambda *of: asked.append(of) or aot.Rehearsed(calls, {}))
    monkeypatch.setattr(aot, "specialisation", lambda launch, target: str(launch.args))
    monkeypatch.setattr(aot, "report", lambda *of: compiled.append(of) or replace(REPORT, target=of[1]))
    monkeypatch.setattr(aot, "place_triton_cache", lambda: None)
    workload = Workload("dropout", "alexnet", "before fc7", 8, "float16")
    found = list(aot.reports([workload], [80, CHIPS["H200"]]))
    assert asked == [(workload, aot.TARGETS[80]), (workload, CHIPS["H200"])]
    assert compiled == [(one, 80), (other, 80), (one, 90), (other, 90)]
    wanted = [("forward", (1, 2, 3)), ("forward", (1, 2, 3)), ("backward", (9, 9, 9))]
    made = [(report.call, report.grid, report.target) for report in found]
    assert made == [(*call, target) for target in (80, 90) for call in wanted]
    assert {(report.workload, report.arithmetic) for report in found} == {(str(workload), "float16")}


def test_tasks_run_here_or_in_forked_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "place_triton_cache", lambda: None)
    monkeypatch.setattr(aot, "_tasks", [])
    assert list(aot._run([os.getpid, os.getpid], 1)) == [os.getpid()] * 2
    here, *there = list(aot._run([lambda: os.getpid()] * 3, 2))
    assert os.getpid() not in {here, *there} and len({here, *there}) <= 2


def test_a_launch_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "compile", lambda launch, target: 1 / 0)
    with pytest.raises(RuntimeError, match=r"^k \(BLOCK_M=64\) does not compile for sm_86$") as caught:
        aot.report(launch(1, 2, 64), 86)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_report_is_of_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = SimpleNamespace(num_warps=8, shared=1024, tmem_size=None)
    compiled = SimpleNamespace(asm={"cubin": "code"}, metadata=metadata)
    monkeypatch.setattr(aot, "compile", lambda launch, target: compiled)
    monkeypatch.setattr(sass, "disassemble", lambda cubin: sass.parse(LISTING) if cubin == "code" else None)
    found = aot.report(launch(1, 2, 64, grid=(4, 5)), 90)
    assert (found.kernel, found.target, found.tile, found.grid, found.num_warps) == ("k", 90, "BLOCK_M=64", (4, 5), 8)
    assert (found.registers, found.shared, found.tensor_memory, found.blocks) == (191, 1024, 0, 1)
    assert (found.stack, found.local, found.products, found.commits) == (16, 8, 2, 1)
    assert found.main_loop == {"HGMMA": 2, "LDGSTS": 1, "BRA": 1} and found.opcodes["LDGSTS"] == 3
    assert (found.loads, found.stores, found.copies) == ({8: 1, 32: 1}, {64: 1, 128: 1}, {32: 1, 128: 2})
    assert found.workload == found.call == found.arithmetic == ""
    metadata.tmem_size = 512
    assert aot.report(launch(1, 2, 64), 100).tensor_memory == 512


def test_somewhere_else_is_a_gpu_with_a_number_of_its_own() -> None:
    with aot.compiling_for(86):
        driver = aot.driver._active
        assert (driver.get_current_device(), driver.get_current_stream(0)) == (-86, 0)
        target = driver.get_current_target()
        assert (target.backend, target.arch, target.warp_size) == ("cuda", 86, 32)


def test_the_command_asks_for_what_is_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(aot, "having", lambda backend, operators: [backend, *operators])
    monkeypatch.setattr(aot, "workloads", lambda *of: of)
    monkeypatch.setattr(aot, "reports", lambda *of: asked.append(of) or [REPORT])
    line = "--target 80 100 --dtype tf32 --model alexnet --operator dropout --layer fc6 fc7 --batch 3 --jobs 5 --json"
    assert aot.main(line.split()) == 0
    problems = (["alexnet"], ["tf32"], [3], ["triton", "dropout"], ["fc6", "fc7"])
    assert asked == [(problems, [80, 100], 5)]
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(asdict(REPORT)))


def test_a_cubin_is_read_by_cuobjdump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sass, "listing", lambda path: seen.append((path.suffix, path.read_bytes())) or LISTING)
    assert sass.disassemble(b"code").registers == 191 and seen == [(".cubin", b"code")]


@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("nvcc", ["/cuda/bin/nvcc", None])
def test_which_cuobjdump_reads_it(triton: bool, nvcc: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    found = {"nvcc": nvcc, "cuobjdump": "/found"}
    monkeypatch.setenv("PATH", "/somewhere")
    monkeypatch.setattr(sass.importlib.util, "find_spec", lambda name: triton or None)
    monkeypatch.setattr(sass.shutil, "which", lambda name, path=None: asked.append((name, path)) or found[name])
    if triton:
        assert sass.cuobjdump() == str(aot.knobs.nvidia.cuobjdump.path) and not asked
        return
    assert sass.cuobjdump() == "/found"
    path = os.pathsep.join(["/somewhere", *["/cuda/bin"] * (nvcc is not None)])
    assert asked == [("nvcc", None), ("cuobjdump", path)]
    found["cuobjdump"] = None
    with pytest.raises(RuntimeError, match="^alexkern: cuobjdump was not found: install triton"):
        sass.cuobjdump()


def test_the_launchers_of_cuda_choose_as_on_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a block; what they launch is found again among what nvcc has made."""
    chip, launches = CHIPS["A100"], []
    names = {"m1": "dropout::k<1>", "m2": "max_pool2d::dropout::k<2>"}
    other = replace(KERNEL, operator="max_pool2d", kernel="dropout::k<2>", registers=7)
    kernels, asked = [replace(KERNEL, kernel="k<1>"), other], []

    def call(*mangled: str) -> None:
        emulated = static_cuda.cuda.EMULATED, static_cuda.sm90.EMULATED
        asked.append((emulated, [os.environ[f"ALEXKERN_EMULATE{more}"] for more in ("", "_CAPABILITY")]))
        launches.extend(SimpleNamespace(kernel=name, grid=(len(launches), 1, 1)) for name in mangled)

    calls = {"forward": lambda: call("m1", "m2"), "backward": lambda: call("m2")}
    workload = SimpleNamespace(
        arithmetic="tf32", calls=lambda device, backend: calls if (str(device), backend) == ("cpu", "cuda") else {}
    )
    monkeypatch.setattr(static_cuda, "rehearsing", lambda: nullcontext(launches))
    monkeypatch.setattr(static_cuda, "precision", lambda arithmetic: asked.append(arithmetic) or nullcontext())
    monkeypatch.setattr(static_cuda, "objects", lambda target: asked.append(target) or "made")
    monkeypatch.setattr(static_cuda, "instantiations", lambda made, of: asked.append((made, len(of))) or kernels)
    monkeypatch.setattr(static_cuda, "demangled", lambda mangled: [names[name] for name in mangled])
    before = static_cuda.cuda.EMULATED
    found = list(static_cuda.reports([workload], chip))
    assert asked == ["tf32", *[((chip, chip), ["1", "8.0"])] * 2, "80", ("made", 3)]
    assert static_cuda.cuda.EMULATED is before
    assert [(one, name, report.kernel, report.registers, report.grid) for one, name, report in found] == [
        (workload, "forward", "k<1>", 99, (0, 1, 1)), (workload, "forward", "dropout::k<2>", 7, (1, 1, 1)),
        (workload, "backward", "dropout::k<2>", 7, (0, 1, 1)),
    ]  # fmt: skip
    assert static_cuda.NAMES == {80: "80", 86: "86", 89: "89", 90: "90a", 100: "100a", 120: "120"}


@pytest.mark.parametrize(
    ("found", "runs", "old", "words"),
    [
        (None, False, None, f"nvcc was not found (looked at {objects.PLACES})"),
        ("/a/nvcc", False, None, "nvcc was not found: CUDACXX is /a/nvcc"),
        ("/a/nvcc", True, "it is old", "it is old"),
        ("/a/nvcc", True, None, None),
    ],
)
def test_what_compiling_lacks(
    found: str | None, runs: bool, old: str | None, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "find_nvcc", lambda: found)
    monkeypatch.setattr(objects.shutil, "which", lambda name: name if runs else None)
    monkeypatch.setattr(objects, "too_old", lambda nvcc: old)
    assert objects.missing() == words
    if words is None:
        assert objects.nvcc() == found
        monkeypatch.setattr(objects, "SOURCES", tmp_path)
        words = f"the kernels' sources are not at {tmp_path}: use a checkout of alexkern"
        assert objects.missing() == words
    with pytest.raises(RuntimeError) as caught:
        objects.nvcc()
    assert str(caught.value) == f"alexkern: {words}"


def test_targets_are_those_that_nvcc_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(returncode=0, stdout="sm_75\nsm_80\nsm_90\nsm_120\n", stderr="")
    asked: list[Any] = []
    monkeypatch.setattr(objects, "nvcc", lambda: "/nvcc")
    monkeypatch.setattr(objects, "run", lambda command: asked.append(command) or done)
    assert objects.targets() == ("80", "90a", "120") and asked == [["/nvcc", "--list-gpu-code"]]
    for status, stderr, words in ((1, " no \n", "no"), (-9, "", "what it said")):
        done = SimpleNamespace(returncode=status, stdout="what it said\n", stderr=stderr)
        with pytest.raises(RuntimeError, match=f"^alexkern: /nvcc --list-gpu-code failed: {words}$"):
            objects.targets()


@pytest.mark.parametrize("launched", [True, False])
def test_an_instantiation_is_what_ptxas_and_its_launch_say(launched: bool) -> None:
    made = objects.Object(Path("/csrc/cuda/dropout/dropout.cu"), "90a", Path("a.o"), 1.0, {})
    how = Launch("k", (1, 1, 1), (11, 3, 2), 1000) if launched else None
    assembled = objects.Assembled(registers=40, spilled=4, shared=24)
    found = _instantiation(made, "dropout::k<dropout::T>", assembled, sass.parse(LISTING), how)
    assert (found.operator, found.kernel, found.target, found.launched) == ("dropout", "k<T>", 90, launched)
    assert (found.registers, found.spilled, found.static_shared) == (40, 4, 24)
    if launched:
        assert (found.num_warps, found.shared) == (3, 1024)
        assert found.blocks == blocks_per_multiprocessor(90, 40, 1024, 3) > 1
    else:
        assert (found.num_warps, found.shared, found.blocks) == (0, 24, 0)
    assert (found.stack, found.products) == (16, 2)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("void alexkern::dropout::(anonymous namespace)::k<ptx::half>(float*)", "dropout::k<half>"),
        ("f", "f"), ("a<(Stage)1, b<(int)2>>(int)", "a<(Stage)1, b<(int)2>>"),
    ],
)  # fmt: skip
def test_names_are_short(name: str, short: str) -> None:
    assert _short(name) == short


def test_an_instantiation_in_a_row() -> None:
    kernel = replace(
        KERNEL, static_shared=48, spilled=8, stack=4, local=2, loads={32: 1, 128: 2}, stores={8: 3}, copies={64: 1},
        opcodes={"MOV": 9, "LDG": 8, "UTMALDG": 1, "LDSM": 2, "EXIT": 1},
    )  # fmt: skip
    cells = ("dropout", "a_kernel", "80", "4", "99", "48 + 2000", "14", "2", "8")
    accesses = "LDGSTS.64 1, LDG.128 2, LDG.32 1, STG.8 3"
    assert table.row(kernel) == (*cells, f"21, LDSM 2, UTMALDG 1, MOV 9, LDG 8, {accesses}")
    looping = replace(kernel, main_loop={"IADD": 5, "HMMA": 2}, loads={}, copies={})
    assert table.row(looping)[-1] == "7 in the loop, HMMA 2, IADD 5, STG.8 3" and len(table.COLUMNS) == 10


REPORT = aot.Report(
    workload="w", call="forward", arithmetic="bfloat16", tile="BLOCK_M=64 BLOCK_K=32", grid=(1, 1, 1), target=80,
    kernel="conv2d_kernel", num_warps=4, registers=99, stack=0, local=0, shared=0, blocks=1, opcodes={},
    main_loop={"HMMA": 4}, products=4, commits=0, loads={}, stores={}, copies={128: 1},
)  # fmt: skip
POOLED = replace(REPORT, kernel="max_pool2d_kernel", tile="BLOCK=64", main_loop={}, loads={128: 1}, stores={128: 1})


MOSTLY = "wanted mostly 128, and none under"


@pytest.mark.parametrize(
    ("report", "changes", "broken"),
    [
        (REPORT, {}, ""),
        (
            REPORT,
            {"blocks": 0, "opcodes": {"ATOM": 1}},
            "no block fits: 99 registers, 4 warps, 0 bytes\natomic operations {'ATOM': 1}; every sum has one order",
        ),
        (REPORT, {"main_loop": {}}, "no HMMA in the main loop {}"),
        (REPORT, {"main_loop": {}, "arithmetic": "float32"}, ""),
        (REPORT, {"main_loop": {}, "arithmetic": "tf32"}, "no HMMA in the main loop {}"),
        (REPORT, {"main_loop": {}, "tile": "BLOCK=64"}, ""),
        (REPORT, {"target": 90}, "no HGMMA in the main loop {'HMMA': 4}"),
        (REPORT, {"target": 90, "tile": "BLOCK_M=63 BLOCK_K=32"}, ""),
        (REPORT, {"target": 100}, "no UTCHMMA in the main loop {'HMMA': 4}"),
        (REPORT, {"target": 120, "tile": "BLOCK_K=32"}, ""),
        (REPORT, {"target": 90, "tile": "BLOCK_K=32", "main_loop": {"HGMMA": 4}, "commits": 2}, ""),
        (REPORT, {"target": 90, "main_loop": {"HGMMA": 4}, "commits": 3}, "3 of 4 wgmma are waited for one by one"),
        (REPORT, {"target": 90, "main_loop": {"HGMMA": 3}, "products": 3, "commits": 3}, ""),
        (REPORT, {"commits": 3}, ""),
        (REPORT, {"copies": {64: 1, 128: 1}}, COPIES + " 128 only"),
        (REPORT, {"copies": {64: 1}, "arithmetic": "float16"}, COPIES + " 128 only"),
        (REPORT, {"copies": {32: 1}, "arithmetic": "tf32"}, ""),
        (POOLED, {}, ""),
        (POOLED, {"loads": {128: 1, 64: 2}, "stores": {128: 2, 64: 4}}, ""),
        (POOLED, {"loads": {128: 1, 32: 5}}, f"loads by width in bits %(loads)s; {MOSTLY} 32"),
        (POOLED, {"loads": {128: 9, 16: 1}}, f"loads by width in bits %(loads)s; {MOSTLY} 32"),
        (POOLED, {"stores": {128: 9, 32: 1}}, f"stores by width in bits %(stores)s; {MOSTLY} 64"),
        (POOLED, {"stores": {}}, f"stores by width in bits %(stores)s; {MOSTLY} 64"),
        (POOLED, {"kernel": "conv_kernel", "stores": {}}, ""),
    ],
)
def test_what_breaks_a_triton_kernels_budget(report: aot.Report, changes: dict[str, Any], broken: str) -> None:
    report = replace(report, **changes)
    where = f"w forward, {report.kernel} on sm_{report.target}"
    assert triton_budget.violations(report) == [f"{where}: {line % vars(report)}" for line in broken.splitlines()]
