"""The ladder: every step is right, every planted fault is found, and heads, README and pictures say what is so."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexkern import cli
from alexkern._nvcc import find_nvcc
from alexkern.backends.torch import philox
from alexkern.commands import learn
from support.optional import need

lesson = learn._lesson()
machine, readme, steps = (importlib.import_module(f"alexkern_ladder.{name}") for name in ("machine", "readme", "steps"))
faults, pictures = (importlib.import_module(f"alexkern_ladder.{name}") for name in ("faults", "pictures"))

STEPS, FAULTS = steps.STEPS, faults.FAULTS
CUDA = [name for name, step in STEPS.items() if step.file.endswith(".cu")]
# Beyond three a step, five for the last: in the long half, for each is a program to compile.
LONG = {
    "tile_too_large", "no_commit", "swapped_halves", "two_places",
    "too_few_bytes", "wrong_parity", "no_wgmma_fence", "no_wait_for_products",
}  # fmt: skip
PTX = Path(steps.FOLDER, "../../csrc/cuda/ptx").resolve()

needs_emulator = pytest.mark.skipif(machine.missing() is not None, reason=str(machine.missing()))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs alexkern learn in this process: its exit status, what it printed, and the lines on stderr."""

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        status = cli.main(["learn", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err.splitlines()

    return run


def interpreted(*arguments: str) -> subprocess.CompletedProcess[str]:
    """alexkern learn in a process whose Triton interprets, as the command chooses by itself."""
    need("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "alexkern", "learn", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@needs_emulator
@pytest.mark.parametrize("name", CUDA)
@pytest.mark.parametrize("seed", [0, 4])  # late and early copies
def test_step_is_right(name: str, seed: int) -> None:
    for inputs in (machine.Inputs.drawn(steps.SMALL), machine.Inputs.whole_numbers(steps.TINY)):
        machine.check(STEPS[name], inputs, machine.run(STEPS[name], inputs, seed=seed).outputs)


@needs_emulator
@pytest.mark.full
@pytest.mark.parametrize("name", CUDA)
def test_step_has_no_race(name: str) -> None:
    inputs = machine.Inputs.drawn(steps.SMALL)
    machine.check(STEPS[name], inputs, machine.run(STEPS[name], inputs, name="thread").outputs)


@needs_emulator
def test_what_a_step_prints(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setattr(lesson, "CONV2", steps.SMALL)
    monkeypatch.setattr(lesson, "find_nvcc", lambda: None)  # whose part has a test of its own
    status, said, errors = run("4")
    assert (status, errors) == (0, [])
    lines = said.splitlines()
    assert lines[0] == "Step 4, examples/ladder/4_tensor_core.cu: cp.async, swizzle, ldmatrix, mma.sync"
    assert lines[2 : 2 + len(pictures.PICTURES["4"]())] == ["  " + line for line in pictures.PICTURES["4"]()]
    whole = lines.index("A 4 x 4 image, channel 0 and filter 0; all other channels are 0")
    assert lines[whole + 1].split() == ["x", "w", "conv", "pooled"] and lines[whole + 2].startswith("   1  2  0  1 ")
    assert all(f"  {name:6} right: error " in said for name in ("conv", "pooled"))
    assert re.search(r"counted: ldmatrix [1-9][\d,]*, conflicts 0, mma [1-9][\d,]*, wgmma 0, cp.async [1-9]", said)
    assert f"global bytes: {STEPS['4'].bytes}\n" in said
    assert f"= {steps.value(STEPS['4'].bytes, steps.SMALL):,}\n" in said
    assert re.search(r"predicted on an H100, 128 images: [\d,]+ us \(by alexkern.cost; not measured\)", said)


def test_step_in_triton_is_right() -> None:
    done = interpreted("7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"  {name:6} right" in done.stdout for name in ("conv", "pooled", "place"))


@needs_emulator
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name, marks=[pytest.mark.full] if fault.name in LONG else [])
        for fault in FAULTS
        if fault.step in CUDA
    ],
)
def test_planted_fault_is_found(fault: Any, run: Any) -> None:
    status, said, errors = run(fault.step, "--break", fault.name)
    assert (status, errors) == (0, [])
    file = re.escape(f"examples/ladder/{STEPS[fault.step].file}")
    assert re.search(rf"^planted: {fault.name}, in kernel convolve, {file}:\d+\n", said)
    assert re.search(r"^found by the .*: kernel convolve[,:] ", said, re.MULTILINE)


@pytest.mark.full
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.step == "7"], ids=lambda fault: fault.name)
def test_planted_fault_in_triton_is_found(fault: Any) -> None:
    done = interpreted("7", "--break", fault.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^found by torch: kernel \w+: wrong result: ", done.stdout, re.MULTILINE)


@needs_emulator
def test_what_is_no_fault_is_not_found(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    harmless = replace(FAULTS[0], name="harmless", wrong=FAULTS[0].right + ";")
    monkeypatch.setattr(lesson, "faults_of", lambda step: {"harmless": harmless})
    monkeypatch.setattr(machine, "BUILDS", machine.BUILDS[:1])  # the race detector's has its own test above
    status, said, _ = run("3", "--break", "harmless")
    assert status == 1 and said.endswith("not found\n")


def test_faults_apply_once_and_there_are_enough() -> None:
    for fault in FAULTS:
        text = STEPS[fault.step].text()
        lines = zip(text.splitlines(), fault.planted(text).splitlines(), strict=True)
        changed = [(right, wrong) for right, wrong in lines if right != wrong]
        assert len(changed) == 1, fault.name
        assert text.splitlines()[fault.line(text) - 1] == changed[0][0]
    for name in STEPS:
        assert name in ("1", "2") or len(faults.faults_of(name)) >= 3
    with pytest.raises(ValueError, match="is there 0 times, not once"):
        replace(FAULTS[0], right="nothing of the kind").planted(STEPS["3"].text())


@pytest.mark.parametrize("name", STEPS)
def test_file_is_short_and_its_head_has_the_picture(name: str) -> None:
    step = STEPS[name]
    head = steps.head_of(step)
    assert len(steps.code_of(step)) <= 150 and len(head) <= 60
    picture = ["    " + line for line in pictures.PICTURES[name]()]
    start = head.index(picture[0])
    assert head[start : start + len(picture)] == picture
    assert re.search(r"(thread|lane|program) \(?\d+", " ".join(picture)), "no thread's numbers"
    assert any(re.search(r"\w\[.*\] \+?= .", line) for line in head), "no formula"
    assert name == "1" or any(re.match(r"New since steps? \d", line) for line in head)
    assert any(line.startswith("Exercise: ") for line in head)
    assert name == "7" or steps.added_lines(step) <= steps.DIFFERENCE


@pytest.mark.parametrize("name", CUDA)
def test_step_stands_on_the_ptx_wrappers_alone(name: str) -> None:
    files = [STEPS[name].path, steps.FOLDER / "layer.h"]
    for file in files:
        included = [(file.parent / path).resolve() for path in re.findall('#include "(.*)"', file.read_text())]
        assert {path.parent for path in included} <= {PTX, steps.FOLDER}
    assert "#if" not in STEPS[name].text()


@pytest.mark.full
@pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not here")
@pytest.mark.parametrize("name", CUDA)
def test_nvcc_takes_the_step_too(name: str) -> None:
    lines = lesson.compiled(STEPS[name])
    assert len(lines) == len(re.findall("^const Launcher launchers.*", STEPS[name].text(), re.M)[0].split(",")) - 1
    assert all(re.match(r"sm_\w+, \w+: \d+ registers, \d+ instructions \(", line) for line in lines), lines
    product = {"4": "HMMA 32", "5": "HMMA 32", "6": "HGMMA "}.get(name, "FFMA ")
    assert any(product in line for line in lines), lines


def test_production_kernels_name_their_rungs() -> None:
    root = steps.FOLDER.parents[1]
    products = ("conv2d_relu", "conv2d_relu_data_gradient", "conv2d_relu_weight_gradient", "conv2d_relu_max_pool2d")
    files = [root / "kernels" / f"{name}.py" for name in (*products, "max_pool2d", "dropout", "linear_relu_dropout")]
    rooms = ("conv2d_relu/convolve", "conv2d_relu/weight_gradient", "conv2d_relu_max_pool2d/forward")
    rooms += ("max_pool2d/forward", "dropout/dropout", "sm90/convolve", "sm90/weight_gradient")
    rooms += ("conv2d_relu_max_pool2d/backward", "max_pool2d/backward", "linear_relu_dropout/few_rows")
    files += [root / "csrc" / "cuda" / f"{name}.cu" for name in rooms]
    for file in files:
        named = re.findall(r"examples/ladder/\w+\.\w+", " ".join(file.read_text(encoding="utf-8").split("\n")))
        assert named and all((root / name).exists() for name in named), file


@needs_emulator
def test_readme_is_what_is_generated() -> None:
    assert (steps.FOLDER / "README.md").read_text(encoding="utf-8") == readme.text()


@needs_emulator
def test_formulas_count_what_the_emulator_counts() -> None:
    """The bytes of the copies that it sees: 16 a cp.async, and 64 x 64 halves one of TMA's, whose last one stores."""
    inputs, fetched = machine.Inputs.drawn(steps.SMALL), "tiles * 256 * GEMM_K"
    counted = {name: machine.run(STEPS[name], inputs).counted for name in ("4", "5", "6")}
    assert 16 * counted["4"]["cp.async"] == steps.value(fetched, steps.SMALL)
    assert 16 * counted["5"]["cp.async"] == steps.value("strips * (pooled_H + 1) * 256 * GEMM_K", steps.SMALL)
    assert 8192 * counted["6"]["TMA"] == steps.value(f"{fetched} + tiles * 8192", steps.SMALL)
    products = {name: steps.value(STEPS[name].products, steps.SMALL) for name in counted}
    assert products["4"] == 16 * 8 * 16 * counted["4"]["mma"] and products["5"] == 16 * 8 * 16 * counted["5"]["mma"]
    assert products["6"] == 16 * 64 * 16 * counted["6"]["wgmma"]


def test_lists_steps_and_faults(run: Any) -> None:
    status, said, errors = run()
    assert (status, errors) == (0, [])
    for step in STEPS.values():
        assert step.file in said and step.idea in said
    assert all(fault.name in said for fault in FAULTS)


def test_dropout_runs_and_its_words_are_those_of_the_definition(run: Any) -> None:
    status, said, errors = run("dropout")
    assert (status, errors) == (0, []) and said.count("dx ") == 2
    names = runpy.run_path(str(steps.FOLDER / "dropout.py"))
    for seed, offset in ((2012, 0), (2**63 + 5, 2**64 - 2), (0, 2**32 - 1)):
        key = torch.tensor([value - 2**64 if value >= 2**63 else value for value in (seed, offset)])
        words = [word for i in range(3) for word in names["block"](seed, (offset + i) % 2**64)]
        assert words == philox.words(key, 12).tolist()
    x = torch.randn(3, 7, requires_grad=True)
    y = names["Seeded"].apply(x, 0.3, 5, 8)
    y.backward(torch.ones_like(y))
    keep = philox.keep(torch.tensor([5, 8]), 0.3, (3, 7), (7, 1))
    assert torch.equal(x.grad, keep / 0.7) and torch.equal(y, x.detach() * keep / 0.7)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["8"], "no step is called '8'; there are 1, 2, 3, 4, 5, 6, 7, dropout"),
        (
            ["4", "--break", "no_comit"],
            "no fault of step 4 is called 'no_comit'; there are wait_one_short, no_commit, ",
        ),
        (["1", "--break", "no_commit"], "no fault of step 1 is called 'no_commit'; it has none"),
        (["dropout", "--break", "x"], "no fault of step dropout is called 'x'; it has none"),
        (["--break", "no_commit"], "which step? There are 1, 2, 3, 4, 5, 6, 7, dropout"),
        (["4"], "the emulator needs a C++ compiler, and /nowhere/c++ was not found"),
    ],
)
def test_bad_input_is_one_line(run: Any, arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    status, said, errors = run(*arguments)
    assert (status, said, len(errors)) == (2, "", 1)
    assert errors[0].startswith(f"alexkern learn: {words}")


@needs_emulator
def test_a_step_that_is_wrong_is_one_line(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setattr(machine, "torchs", lambda inputs, dtype: {"conv": torch.zeros(1, 4, 4, 64, dtype=dtype)})
    status, _, errors = run("6")
    assert status == 1 and errors == ["alexkern learn: wrong result: conv[0, 1, 1, 0] is 6, wanted is 0"]


def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setenv("CXX", "false")
    status, said, errors = run("4", "--break", "no_commit")
    assert status == 2 and len(errors) == 1 and said.startswith("planted: no_commit, ")
    assert errors[0].startswith("alexkern learn: compiling the kernels for the emulator failed: false ")


def test_no_triton_is_one_line(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # put back at the end, whatever the command sets
    monkeypatch.setattr(machine, "has_triton", lambda: False)
    assert run("7") == (2, "", ["alexkern learn: step 7 needs triton (pip install triton, on Linux)"])


def test_outside_of_a_source_tree_it_says_where_the_ladder_is(
    monkeypatch: pytest.MonkeyPatch, run: Any, tmp_path: Path
) -> None:
    monkeypatch.setattr(learn, "LADDER", tmp_path / "examples" / "ladder")
    words = "alexkern learn: the ladder is in the source tree (examples/ladder), which is not here: use a checkout"
    for arguments in ([], ["4"]):
        assert run(*arguments) == (2, "", [words])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(run: Any) -> None:
    words = "alexkern learn: --gpu needs an NVIDIA GPU that torch can use, and there is none here"
    assert run("4", "--gpu") == (2, "", [words])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has torch tell of a GPU of this compute capability."""

    def gpu(*capability: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")

    return gpu


@pytest.mark.parametrize("factor", [1, 0])
@pytest.mark.parametrize(
    ("name", "capability", "target"),
    [("1", (8, 6), "86"), ("4", (9, 0), "90a"), ("4", (12, 0), "120"), ("6", (9, 0), "90a")],
)
def test_for_a_gpu_it_is_compiled_held_to_torch_and_timed(
    name: str,
    capability: tuple[int, int],
    target: str,
    factor: int,
    monkeypatch: pytest.MonkeyPatch,
    gpu: Any,
    run: Any,
) -> None:
    """Up to the program itself, in whose place something stands that is right, or (times 0) wrong."""
    gpu(*capability)
    commands: list[list[str]] = []
    monkeypatch.setattr(lesson, "CONV2", steps.SMALL)
    monkeypatch.setattr(machine, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(machine, "make", lambda command, *_: commands.append(command))

    def ran(program: Path, inputs: Any, seed: int) -> Any:
        found = machine.torchs(inputs, torch.float64)
        return machine.Ran({name: (value * factor).half() for name, value in found.items()}, {"microseconds": 1234.56})

    monkeypatch.setattr(machine, "_run_program", ran)
    status, said, errors = run(name, "--gpu")
    (command,) = commands
    assert f"-gencode=arch=compute_{target},code=sm_{target}" in command
    assert str(STEPS[name].path) in command and str(steps.FOLDER / "main.cu") in command
    if factor == 1:
        assert (status, errors) == (0, [])
        assert said.startswith(f"Step {name} on A GPU: 128 x ") and "right; 1,234.6 us, the best of " in said
    else:
        assert (status, said, len(errors)) == (1, "", 1) and "wrong result: conv[" in errors[0]


@pytest.mark.parametrize(
    ("name", "capability", "words"),
    [
        ("6", (8, 0), "step 6 is for compute capability 9.0, and the GPU here has 8.0"),
        ("4", (9, 0), "--gpu needs nvcc, which was not found"),
        ("7", (9, 0), "TRITON_INTERPRET=1 is set, and an interpreter's times say nothing; unset it"),
    ],
)
def test_what_a_gpu_run_lacks_is_one_line(
    name: str, capability: tuple[int, int], words: str, monkeypatch: pytest.MonkeyPatch, gpu: Any, run: Any
) -> None:
    gpu(*capability)
    monkeypatch.setattr(lesson, "CONV2", steps.SMALL)
    monkeypatch.setattr(machine, "find_nvcc", lambda: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert run(name, "--gpu") == (2, "", [f"alexkern learn: {words}"])


@pytest.mark.full
@pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", CUDA)
def test_nvcc_makes_a_program_that_says_that_there_is_no_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch, gpu: Any, run: Any
) -> None:
    gpu(9, 0)
    monkeypatch.setattr(lesson, "CONV2", steps.SMALL)
    status, said, errors = run(name, "--gpu")
    assert (status, said, len(errors)) == (1, "", 1) and "CUDA" in errors[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", STEPS)
def test_step_on_a_gpu(name: str, run: Any) -> None:
    if STEPS[name].target == "90a" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("wgmma is compute capability 9.0's")
    status, said, _ = run(name, "--gpu")
    assert status == 0 and " us, the best of " in said
