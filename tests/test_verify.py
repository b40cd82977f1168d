"""`alexkern verify`: what it finds where kernels are wrong, hang and crash, and what it keeps of it."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alexkern import cli, dispatch, verified
from alexkern.ops.registry import OPERATORS
from alexkern.references import REFERENCES, philox
from alexkern.verify import children, probes, trials, verify
from alexkern.verify.child import check_operator
from alexkern.verify.report import Probe, Report, Row
from support import philox as other_philox

CPU = torch.device("cpu")
START = f"import os, sys, time; sys.path[:] = {sys.path!r}\nfrom alexkern.verify import child\n"
# Three faults, each from the fourth call of its operator on, when three trials are done.
PLANT = """
from alexkern.backends.torch import dropout, local_response_norm, max_pool2d
def plant(module, fault):
    calls, real = [], module.forward
    def forward(*args):
        calls.append(args)
        return real(*args) if len(calls) < 4 else fault(real(*args))
    module.forward = forward
plant(max_pool2d, lambda found: (found[0] * 1.01, found[1]))
plant(dropout, lambda found: time.sleep(600))
plant(local_response_norm, lambda found: os.abort())
"""
SEVENTH = """
from alexkern.backends.torch import max_pool2d
from alexkern.ops import registry
registry.OPERATORS["seventh"] = registry.OPERATORS["max_pool2d"]
sys.modules["alexkern.backends.torch.seventh"] = max_pool2d
"""
# The task of a GPU, done on a CPU.
AS_A_GPU = """
import types, torch
child.torch = types.SimpleNamespace(device=lambda name: torch.device("cpu"))
measure = child.measure
child.measure = lambda *a, **k: os.abort() if "dropout" in sys.argv[-1] else measure(*a, **k)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXKERN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Something done in every process before its task."""

    def plant(program: str) -> None:
        command = [sys.executable, "-c", f"{START}{program}\nchild.main()"]
        monkeypatch.setattr(children, "child", lambda: command)

    return plant


def test_every_operator_has_a_reference() -> None:
    assert REFERENCES.keys() == OPERATORS.keys()


def test_what_is_right_is_written_down(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verify", "--operator", "dropout", "--backend", "torch", "--json"]) == 0
    shown, errors = capsys.readouterr()
    found = json.loads(shown)
    (row,) = found["rows"]
    assert found["passed"] and (row["operator"], row["backend"]) == ("dropout", "torch")
    assert errors == "dropout on torch: right\n"
    assert row["checks"] == 24 and 0 < row["worst"] <= 1
    record = verified.record(CPU)
    assert record is not None and Path(found["record"]).parent == cache / "verified"
    assert record["operators"]["dropout"]["torch"]["passed"] and not record["operators"]["dropout"]["torch"]["ms"]
    assert record["operators"].keys() == {"dropout"}


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_simulated_backends(backend: str) -> None:
    if reason := dispatch.missing(backend, "dropout", "cpu", torch.float32):
        pytest.skip(reason)
    report = verify(["dropout"], [backend])
    (row,) = report.rows
    assert row.passed, row.verdict
    assert row.checks == 2 * len(REFERENCES["dropout"].cases) * (3 if backend == "cuda" else 2)  # no bfloat16


FAULTS = {
    "max_pool2d": r"wrong: output of ragged in float32, channels_last: error \d.*, allowed \d",
    "dropout": r"hangs: no answer for 5 s \(ragged in float32, channels_last\)",
    "local_response_norm": r"crashes: SIGABRT.* \(ragged, strong in float32, channels_last\)",
}


def test_a_planted_fault_is_named_and_the_rest_goes_on(
    cache: Path, plant: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    plant(PLANT)
    operators = [*FAULTS, "linear_relu_dropout"]
    assert cli.main(["verify", "--operator", *operators, "--backend", "torch", "--limit", "5"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED ")]
    record = verified.record(CPU)
    assert record is not None
    found = {operator: record["operators"][operator]["torch"] for operator in operators}
    assert [operator for operator in operators if found[operator]["passed"]] == ["linear_relu_dropout"]
    for operator, words in FAULTS.items():
        first = next(line for line in failed if operator in line)
        assert re.match(f"FAILED {operator} on torch: {words}", first), failed
        assert found[operator]["worst"] is not None and re.match(f"FAILED: {words}", found[operator]["failure"])


def test_an_error_is_of_its_trial_and_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*args: Any) -> Tensor:
        if args[0].dtype == torch.float16:
            raise ValueError("no tile fits\nand more")
        return real(*args)

    module = dispatch.implementation("torch", "dropout")
    real = module.forward
    monkeypatch.setattr(module, "forward", raises)
    messages = list(check_operator(CPU, "dropout", "torch", ["float32", "float16"], thorough=False))
    failures = [message["failure"] for message in messages if "failure" in message]
    assert len(failures) == 4 and failures[0] == "classifier in float16, channels_last: ValueError: no tile fits"
    assert sum("error" in message for message in messages) == 8


PRINTS = "import json, sys; print(json.dumps({'at': 'a tile'})); print(json.dumps({'value': 1}), flush=True)"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("raise ValueError('no\\x1b[2J tile')", r"crashes: exit status 1, ValueError: no\?\[2J tile \(a tile\)"),
        ("import os; os.kill(os.getpid(), 11)", r"crashes: SIGSEGV \(a tile\)"),
        ("import time; time.sleep(600)", r"hangs: no answer for 1 s \(a tile\)"),
        ("import os, time; os.close(1); time.sleep(600)", r"hangs at its end: 1 s \(a tile\)"),
    ],
)
def test_how_a_process_stops(end: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "child", lambda: [sys.executable, "-c", f"{PRINTS}; {end}"])
    with children.Children() as running:
        messages = running.task(1)
        assert next(messages) == {"value": 1}  # told although the process has not ended
        with pytest.raises(children.Stopped, match=f"^{words}$"):
            next(messages)


def test_what_still_runs_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"{PRINTS}; import time; time.sleep(600)"
    monkeypatch.setattr(children, "child", lambda: [sys.executable, "-c", program])
    with children.Children() as running:
        messages = running.task(60)
        next(messages)
    with pytest.raises(children.Stopped, match="crashes: SIGKILL"):
        next(messages)
    with pytest.raises(children.Stopped, match="was not started"):
        next(running.task(60))


def test_an_operator_more_is_seen(plant: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(SEVENTH)
    monkeypatch.setitem(OPERATORS, "seventh", OPERATORS["max_pool2d"])
    report = verify(["seventh"])
    rows = {row.backend: row for row in report.rows}
    assert rows["torch"].verdict.startswith("FAILED: nothing to hold it to")
    assert "no triton kernel for seventh" in rows["triton"].verdict
    assert len(report.failed) == 1


def test_a_backend_that_is_not_here(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALEXKERN_EMULATE", "0")
    assert cli.main(["verify", "--operator", "dropout", "--backend", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("alexkern verify: backend 'cuda' is not here: CPU tensors are served by")
    assert verified.record(CPU) is None


def test_a_device_that_does_not_answer(
    cache: Path, plant: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    plant("os.abort()")
    assert cli.main(["verify", "--operator", "dropout"]) == 2
    assert capsys.readouterr().err == "alexkern verify: the cpu device crashes: SIGABRT (starting)\n"


def test_times_of_a_gpu_and_a_crash_meanwhile(plant: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    plant(AS_A_GPU)
    first, second = (report := verify(["dropout", "max_pool2d"], ["torch"])).rows
    assert first.verdict == "FAILED: crashes: SIGABRT (timing it in float32)" and first.worst is not None
    assert second.passed and second.ms.keys() == second.torch_ms.keys() == {"float32", "float16", "bfloat16"}
    assert min(second.ms.values()) > 0
    assert report.operators["max_pool2d"]["torch"]["ms"] == second.ms


def fake(operator: str, change: Callable[..., Any], gradients: bool = False) -> trials.Call:
    """A call of the torch backend whose results are changed."""
    real = dispatch.implementation("torch", operator)
    module: Any = types.SimpleNamespace(forward=real.forward, backward=real.backward)
    name = "backward" if gradients else "forward"
    setattr(module, name, lambda *args: change(getattr(real, name)(*args)))
    case = REFERENCES[operator].cases[0]
    return trials.Call(OPERATORS[operator], module, case.draw(torch.float32, CPU))


def worst(call: trials.Call, arithmetic: str = "float32") -> float:
    found = trials.check(call, REFERENCES[call.operator.name], arithmetic)
    return max(error / allowed for _, error, allowed in found)


def nan(output: Tensor) -> Tensor:
    output.view(-1)[3] = float("nan")
    return output


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_trial_sees_errors_just_over_the_allowed(operator: str) -> None:
    pooled = OPERATORS[operator].has_offsets
    assert worst(fake(operator, lambda found: found)) <= 1
    assert worst(fake(operator, lambda found: (found[0] * 1.00001, found[1]) if pooled else found * 1.00001)) > 1
    assert worst(fake(operator, lambda found: (found[0] * 1.00001, *found[1:]), gradients=True)) > 1
    if operator in ("conv2d_relu", "linear_relu_dropout"):
        assert worst(fake(operator, nan)) == float("inf")
        assert worst(fake(operator, lambda found: (*found[:2], found[2] * 1.00001), gradients=True)) > 1


def test_a_trial_sees_what_has_no_error() -> None:
    with pytest.raises(ValueError, match="input's gradient is missing, wanted"):
        worst(fake("dropout", lambda found: (None,), gradients=True))
    with pytest.raises(
        ValueError, match=r"output is \(\(4, 96\), torch.float64\), wanted \(\(4, 96\), torch.float32\)"
    ):
        worst(fake("dropout", lambda found: found.double()))
    with pytest.raises(ValueError, match="maximum outside of the image"):
        worst(fake("max_pool2d", lambda found: (found[0], found[1] + 9)))


def test_rounding_as_tf32_allows_more() -> None:
    def truncate(output: Tensor) -> Tensor:
        return output.view(torch.int32).bitwise_and(-1 << 13).view(torch.float32)

    assert worst(fake("conv2d_relu", truncate)) > 10
    assert worst(fake("conv2d_relu", truncate), "tf32") < 1.5


def test_a_call_does_not_change_the_settings() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with trials.precision("tf32"):
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_on_a_gpu_every_arithmetic_and_format_is_tried() -> None:
    gpu = torch.device("cuda")
    for operator, reference in REFERENCES.items():
        found = trials.trials(reference, gpu, simulated=False, thorough=False)
        assert {trial.arithmetic for trial in found} == set(trials.DTYPES), operator
        assert {trial.channels_last for trial in found} == {True, False}
        assert {trial.case for trial in found} == {*reference.cases, *reference.layers}
        every = trials.trials(reference, gpu, simulated=False, thorough=True)
        assert len(every) == 8 * len({trial.case for trial in found}) and set(found) <= set(every)
        assert not {trial.case for trial in trials.trials(reference, CPU, True, True)} & {*reference.layers}


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropouts_bits(p: float) -> None:
    seed = torch.tensor((-(2**62) + 7, 2**63 - 3))  # the counter wraps
    like = torch.empty(2, 3, 5, 3).to(memory_format=torch.channels_last)
    assert torch.equal(philox.keep(seed, p, like), other_philox.keep(seed, p, like))


IDENTITY = {"chip": "NVIDIA H200", "driver": "580.65.06", "torch": "2.14.1", "triton": "3.8.0", "alexkern": "0.1.0+1"}
RIGHT, WRONG = {"passed": True}, {"passed": False}


def test_a_record_is_of_one_identity_and_adds_up(cache: Path) -> None:
    assert verified.read(IDENTITY) is None and not cache.exists()  # reading makes nothing
    path = verified.write(IDENTITY, {"dropout": {"cuda": WRONG, "triton": RIGHT}})
    assert path.name.startswith("nvidia-h200-")
    assert verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}, "max_pool2d": {"cuda": WRONG}}) == path
    found = verified.read(IDENTITY)
    assert found is not None
    assert found["operators"] == {"dropout": {"cuda": RIGHT, "triton": RIGHT}, "max_pool2d": {"cuda": WRONG}}
    for key in IDENTITY:
        assert verified.read(IDENTITY | {key: "another"}) is None
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    another = IDENTITY | {"chip": "NVIDIA H100"}
    path.rename(path.with_name(verified.file_name(another)))
    assert verified.read(another) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"identity": 1}', "\xff", "[" * 100_000])
def test_a_damaged_record_is_as_good_as_none(cache: Path, text: str) -> None:
    path = verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}})
    path.write_text(text, encoding="latin-1")
    assert verified.read(IDENTITY) is None
    verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}})
    assert verified.read(IDENTITY) is not None


def test_a_record_that_others_can_write_is_not_read(cache: Path) -> None:
    path = verified.write(IDENTITY, {"dropout": {"cuda": RIGHT}})
    path.parent.chmod(0o777)
    assert verified.read(IDENTITY) is None


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:16:28 UTC 2025\nGCC version: 12.3\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (user@host)\n",
    ],
)
def test_the_drivers_version(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(verified, "DRIVER", tmp_path / "version")
    verified.driver.cache_clear()
    assert verified.driver() == "580.65.06"
    verified.driver.cache_clear()


NVCC = """#!/bin/sh
# Stands in for nvcc: knows its version, and compiles to a program that says which target it was compiled for.
if [ "$1" = --version ]; then echo "Cuda compilation tools, release 13.0, V13.0.48"; exit 0; fi
case "$*" in *cluster.cu*) echo "cluster.cu(7): error: no such thing" >&2; exit 1;; esac
while [ "$1" != -o ]; do case "$1" in -gencode*) target=$1;; esac; shift; done
{ echo "#!/bin/sh"; echo "[ \\$1 = tma_tile ] && { echo \\"$target\\"; exit 1; }"; echo "exit 0"; } > "$2"
chmod +x "$2"
"""


@pytest.mark.usefixtures("cache")
def test_probes_are_compiled_once_and_run_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(NVCC)
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDACXX", str(nvcc))
    with children.Children() as running:
        found = {probe.what: probe for tries in probes.for_gpu((9, 0), running) for probe in tries()}
        assert len(found) == len(probes.EVERYWHERE + probes.ON_HOPPER + probes.OPEN)
        assert found["mbarrier wait parity"].verdict == "right"
        assert found["TMA loads of tiles"].verdict == "FAILED: -gencode=arch=compute_90a,code=sm_90a"
        assert found["cluster multicast"].verdict.startswith("not tried: alexkern: compiling a probe failed: ")
        assert found["96-byte boxes under SWIZZLE_128B"].verdict == "undocumented: yes"
        assert [len(tries()) for tries in probes.for_gpu((8, 0), running)] == [len(probes.EVERYWHERE)]
        folder = tmp_path / "cache" / "probes"
        assert len([*folder.glob("*.out")]) == 2 + 1  # cluster did not compile
        monkeypatch.setattr(probes, "make", lambda *_: pytest.fail("compiled again"))
        assert probes.build("hopper", (9, 0)).exists()


def test_no_probe_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "find_nvcc", lambda: None)
    with children.Children() as running:
        assert probes.for_gpu((8, 0), running)[0]()[0].verdict == "not tried: there is no nvcc"
    monkeypatch.setattr(probes, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(probes, "too_old", lambda nvcc: None)
    monkeypatch.setattr(probes, "PROGRAMS", Path("/nowhere"))
    with pytest.raises(RuntimeError, match="its source is not at /nowhere/hopper.cu: use a checkout of alexkern"):
        probes.build("hopper", (9, 0))


def test_a_failed_probe_is_a_failure_but_for_an_open_one() -> None:
    rows = [Row("dropout", "torch", checks=1, worst=0.5)]
    found = [Probe("wait parity", False, "hangs"), Probe("boxes", False, "hangs", documented=False), Probe("new", None)]
    report = Report(IDENTITY, found, rows, 1.0)
    assert report.failed == ["wait parity: hangs"] and not report.as_data()["passed"]
    shown = str(report)
    assert "wait parity  FAILED: hangs" in shown and "boxes        undocumented: no (hangs)" in shown
    assert Report(IDENTITY, found[1:], rows, 1.0).as_data()["passed"]


@pytest.mark.gpu
@pytest.mark.usefixtures("cache")
def test_gpu_is_right() -> None:
    report = verify()
    assert not report.failed
    assert all(row.ms.keys() == set(trials.DTYPES) for row in report.rows if row.absent is None)
