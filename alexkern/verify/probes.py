"""Single PTX wrappers, each tried by itself on the GPU that is here: the programs of csrc/emulator/tests, by nvcc."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from alexkern._nvcc import find_nvcc, too_old
from alexkern.backends.building import SOURCES, digest, locked, make, remove_old, run
from alexkern.cache import cache_folder
from alexkern.console import first_line
from alexkern.verify.children import Children, Stopped
from alexkern.verify.report import Probe

PROGRAMS = SOURCES / "emulator" / "tests"
FLAGS = ("-std=c++17", "-O1")
LIMIT_S = 10.0  # of one; a barrier that never completes is waited for without end
HOPPER = (9, 0)
# What it is, its program and the case there.
EVERYWHERE = (
    ("ldmatrix", "wrappers", "ldmatrix"),
    ("ldmatrix.trans", "wrappers", "ldmatrix_trans"),
    ("mma.sync in fp16", "wrappers", "mma_fp16"),
    ("mma.sync in bf16", "wrappers", "mma_bf16"),
    ("mma.sync in tf32", "wrappers", "mma_tf32"),
    ("cp.async", "wrappers", "cp_async"),
    ("named barriers", "wrappers", "barriers"),
)
ON_HOPPER = (
    ("mbarrier wait parity", "sm90", "mbarrier"),
    ("TMA loads of tiles", "sm90", "tma_tile"),
    ("TMA im2col corners", "sm90", "tma_im2col"),
    ("TMA im2col, steps and taps apart", "sm90", "tma_im2col_apart"),
    ("TMA stores", "sm90", "tma_store"),
    ("wgmma layouts in fp16", "sm90", "wgmma_fp16"),
    ("wgmma layouts in bf16", "sm90", "wgmma_bf16"),
    ("wgmma layouts in fp16, transposed", "sm90", "wgmma_transposed_fp16"),
    ("wgmma layouts in bf16, transposed", "sm90", "wgmma_transposed_bf16"),
    ("stmatrix", "sm90", "stmatrix"),
    ("arrivals across a cluster", "cluster", "cluster"),
    ("cluster multicast", "cluster", "tma_multicast"),
)
# What PTX's description leaves open: no kernel counts on it, and no answer is wrong.
OPEN = (
    ("96-byte boxes under SWIZZLE_128B", "sm90", "narrow_boxes"),
    ("TMA stores at negative coordinates", "sm90", "store_in_front"),
)


def for_gpu(capability: tuple[int, int], children: Children) -> list[Callable[[], list[Probe]]]:
    """A call for each program, which tries those of its cases that are for a GPU of this compute capability."""
    entries = EVERYWHERE + (ON_HOPPER + OPEN if capability == HOPPER else ())
    programs = dict.fromkeys(program for _, program, _ in entries)
    return [partial(attempt_all, name, [one for one in entries if one[1] == name], capability, children)
            for name in programs]  # fmt: skip


def attempt_all(
    program: str, entries: Sequence[tuple[str, str, str]], capability: tuple[int, int], children: Children
) -> list[Probe]:
    """Compile the program where it has changed, and run each case in a process of its own."""
    try:
        path = build(program, capability)
    except RuntimeError as error:
        return [Probe(what, None, first_line(error)) for what, _, _ in entries]
    return [attempt(path, what, case, (what, program, case) not in OPEN, children) for what, _, case in entries]


def attempt(path: Path, what: str, case: str, documented: bool, children: Children, limit: float = LIMIT_S) -> Probe:
    """Run one case of a compiled program."""
    said = []
    try:
        for line in children.lines([str(path), case], lambda: limit):
            said.append(line)
    except Stopped as error:
        return Probe(what, False, said[-1] if said else str(error), documented)
    return Probe(what, True, "", documented)


def build(program: str, capability: tuple[int, int]) -> Path:
    """The program's file in the user's cache folder, compiled by nvcc.

    Raises:
        RuntimeError: there is no nvcc, or no source, or it does not compile.
    """
    nvcc = find_nvcc()
    source = PROGRAMS / f"{program}.cu"
    if nvcc is None:
        raise RuntimeError("there is no nvcc")
    if reason := too_old(nvcc):
        raise RuntimeError(reason)
    if not source.exists():
        raise RuntimeError(f"its source is not at {source}: use a checkout of alexkern")
    target = f"{capability[0]}{capability[1]}" + ("a" if capability == HOPPER else "")
    command = [nvcc, *FLAGS, f"-gencode=arch=compute_{target},code=sm_{target}"]
    headers = sorted([*PROGRAMS.glob("*.h"), *(SOURCES / "cuda" / "ptx").glob("*.cuh")])
    version = run([nvcc, "--version"]).stdout
    contents = [path.read_bytes() for path in (source, *headers)]
    folder = cache_folder("probes")
    path = folder / f"{program}-{digest(version, *command, *contents)}.out"
    with locked(folder / f"{program}.lock"):
        if not path.exists():
            make([*command, str(source)], path, "compiling a probe")
            remove_old(folder, {path})
    return path
