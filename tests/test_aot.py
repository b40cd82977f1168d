"""What ahead-of-time compilation reads and computes: machine-code listings, main loops, occupancy."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from support.optional import need

need("triton")

from alexkern.cost.model import blocks_per_multiprocessor, limits  # noqa: E402
from alexkern.tools import aot, sass  # noqa: E402

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


def test_a_kernel_without_a_working_loop_has_no_main_loop() -> None:
    waiting = [line for line in LISTING.splitlines() if "HGMMA" not in line and "LDGSTS" not in line]
    assert sass.main_loop(sass.parse("\n".join(waiting)).instructions) == ()


def test_accesses_are_counted_by_width() -> None:
    instructions = sass.parse(LISTING).instructions
    assert sass.accesses(instructions, "load") == {8: 1, 32: 1}
    assert sass.accesses(instructions, "store") == {64: 1, 128: 1}
    assert sass.accesses(instructions, "copy") == {32: 1, 128: 2}


@pytest.mark.parametrize("opcode", ["HMMA.16816.F32.BF16", "HGMMA.64x128x16.F32.BF16", "UTCHMMA", "UTCHMMA.2CTA"])
def test_tensor_core_instructions(opcode: str) -> None:
    assert sass.Instruction(0, opcode, "").is_tensor_core


@pytest.mark.parametrize("opcode", ["FFMA", "HFMA2.MMA", "UTCBAR", "HADD2"])
def test_other_arithmetic(opcode: str) -> None:
    assert not sass.Instruction(0, opcode, "").is_tensor_core


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "wanted one function and its resources, got no function"),
        (
            LISTING + LISTING.replace("matmul", "other"),
            r"wanted one function and its resources, got \['matmul', 'other'\]",
        ),
        (LISTING + LISTING, "listed twice"),
        (
            LISTING.replace("Function : matmul", "Function : other"),
            r"code of \['other'\], but resources of \['matmul'\]",
        ),
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
        workload="conv1", call="forward", kernel="conv_kernel", target=90, tile="128 x 64", registers=168, stack=8,
        local=4, shared=49152, blocks=2, main_loop={"HGMMA": 4, "LDSM": 2}, products=3, copies=(16,), loads=(),
        stores=(4, 8),
    )  # fmt: skip
    monkeypatch.setattr(aot, "reports", lambda *_: [made, made])
    assert aot.main([]) == 0
    head, *rows = [[cell.strip() for cell in line.split(" | ")] for line in capsys.readouterr().out.splitlines()]
    assert tuple(head) == aot.COLUMNS and len(rows) == 2
    counts = "6/3 HGMMA 4, LDSM 2 LDGSTS.16 STG.8"
    assert rows[0] == ["conv1", "forward", "conv_kernel", "90", "128 x 64", "168", "12", "49152", "2", counts]
