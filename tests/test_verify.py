"""`alexkern verify`: what it finds where kernels are wrong, hang and crash, and what it keeps of it."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch

from alexkern import cli, dispatch, verified
from alexkern.commands import verify as command
from alexkern.ops.registry import OPERATORS, served
from alexkern.verify import child, children, probes, trials, verify
from alexkern.verify.child import survey, time_operators
from alexkern.verify.report import Probe, Report, Row
from support import zygote
from support.pinned import hold

CPU = torch.device("cpu")
verifying = sys.modules["alexkern.verify"]
START = "import os, sys, time\nfrom alexkern.verify import child\n"
# Faults, each from the fourth call of its operator on, when three trials are done.
PLANT = """
from alexkern.backends.torch import augment, conv2d_relu, dropout, max_pool2d
def plant(module, fault):
    calls, real = [], module.forward
    def forward(*args):
        calls.append(args)
        return real(*args) if len(calls) < 4 else fault(real(*args))
    module.forward = forward
plant(max_pool2d, lambda found: (found[0] * 1.01, found[1]))
plant(augment, lambda found: found * 1.01)
plant(dropout, lambda found: time.sleep(600))
plant(conv2d_relu, lambda found: os.abort())
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
        command = zygote.command(f"{START}{program}\nchild.main()")
        monkeypatch.setattr(children, "child", lambda: command)

    return plant


def test_what_is_right_is_written_down(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dispatch.resolve("dropout", torch.zeros(1))
    assert cli.main(["verify", "--operator", "dropout", "--backend", "torch", "--json"]) == 0
    assert not dispatch._resolved  # what was chosen before is chosen anew
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


@pytest.mark.parametrize(
    ("operator", "backend"),
    [("dropout", "cuda"), ("dropout", "triton"), pytest.param("augment", "triton", marks=pytest.mark.full)],
)
def test_simulated_backends(operator: str, backend: str, plant: Callable[[str], None]) -> None:
    plant("")
    if reason := dispatch.missing(backend, operator, "cpu", torch.float32):
        pytest.skip(reason)
    report = verify([operator], [backend])
    (row,) = report.rows
    assert row.passed, row.verdict
    checks = {"dropout": 2, "augment": 1}[operator] * len(served()[operator].reference.cases)
    assert row.checks == checks * (3 if backend == "cuda" else 2)  # no bfloat16


FAULTS = {
    "max_pool2d": r"wrong: output of ragged in float32, channels_last: error \d.*, allowed \d",
    "augment": r"wrong: output of random crop and colours in float32, channels_last: error \d.*, allowed \d",
    "dropout": r"hangs: no answer for 5 s \(ragged in float32, channels_last\)",
    "conv2d_relu": r"crashes: SIGABRT.* \(third layer in float32, channels_last\)",
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


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exit status 0"), (3, "exit status 3"), (-11, "SIGSEGV"), (-9, "SIGKILL"), (-60, "signal 60")],
)
def test_how_a_process_ended(status: int, words: str) -> None:
    assert children.describe(status) == words


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


@pytest.mark.full
def test_an_operator_more_is_seen(plant: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(SEVENTH)
    seventh = copy.copy(OPERATORS["max_pool2d"])
    monkeypatch.setitem(OPERATORS, "seventh", seventh)
    report = verify(["seventh"])
    rows = {row.backend: row for row in report.rows}
    assert rows["torch"].passed and not report.failed
    assert "no triton kernel for seventh" in rows["triton"].verdict
    seventh.reference = None
    report = verify(["seventh"])
    (row,) = [row for row in report.rows if row.backend == "torch"]
    assert row.verdict.startswith("FAILED: nothing to hold it to") and len(report.failed) == 1


def test_a_backend_that_is_not_here(
    cache: Path, plant: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("")
    monkeypatch.setenv("ALEXKERN_EMULATE", "0")
    assert cli.main(["verify", "--operator", "dropout", "--backend", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("alexkern verify: backend 'cuda' is not here: CPU tensors are served by")
    assert verified.record(CPU) is None


def test_one_operator_of_a_backend_that_is_switched_off(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("dropout", "triton", checks=1), Row("max_pool2d", "triton", "switched off by ALEXKERN_DISABLE")]
    monkeypatch.setattr(command, "verify", lambda *all: Report(verified.identity(CPU), [], rows, 1.0))
    assert cli.main(["verify", "--backend", "triton", "--operator", "dropout", "max_pool2d"]) == 0
    assert "triton, 1 operators: not here: switched off by ALEXKERN_DISABLE" in capsys.readouterr().out
    record = verified.record(CPU)
    assert record is not None and list(record["operators"]) == ["dropout"]


def test_a_device_that_does_not_answer(
    cache: Path, plant: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    plant("os.abort()")
    assert cli.main(["verify", "--operator", "dropout"]) == 2
    assert capsys.readouterr().err == "alexkern verify: the cpu device crashes: SIGABRT (starting)\n"


@pytest.mark.parametrize("gibibytes, processes", [(0, 1), (7, 1), (8, 2), (600, 16)])
def test_a_gpu_has_memory_for_so_many_processes(
    gibibytes: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"torch": {"dropout": {"float32": "not here"}}}
    here = {"memory": gibibytes * 2**30, "missing": missing, "capability": None, "identity": {}}
    children = mock.MagicMock()
    children.return_value.__enter__.return_value.task.return_value = [here]
    monkeypatch.setattr("alexkern.verify.Children", children)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(32), raising=False)
    verify(["dropout"], ["torch"])
    assert children.call_args_list == [mock.call(32), mock.call(32 // processes)]


def test_times_of_a_gpu_and_a_crash_meanwhile(plant: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    plant(AS_A_GPU)
    first, second = (report := verify(["dropout", "max_pool2d"], ["torch"])).rows
    assert first.verdict == "FAILED: crashes: SIGABRT (timing it in float32)" and first.worst is not None
    assert second.passed and second.ms.keys() == second.torch_ms.keys() == {"float32", "float16", "bfloat16"}
    assert min(second.ms.values()) > 0
    assert report.operators["max_pool2d"]["torch"]["ms"] == second.ms


def test_of_what_has_no_backward_the_forward_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    augment = served()["augment"]
    small = augment.reference._replace(layers=augment.reference.cases[:1])
    monkeypatch.setattr(type(augment), "reference", small)
    *_, times = time_operators(CPU, [("augment", "torch", ["float32", "float16"])])
    assert times["ms"].keys() == {"float32", "float16"} and min(times["ms"].values()) > 0


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
        assert probes.build("sm90", (9, 0)).exists()


def test_no_probe_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "find_nvcc", lambda: None)
    with children.Children() as running:
        assert probes.for_gpu((8, 0), running)[0]()[0].verdict == "not tried: there is no nvcc"
    monkeypatch.setattr(probes, "find_nvcc", lambda: "nvcc")
    monkeypatch.setattr(probes, "too_old", lambda nvcc: None)
    monkeypatch.setattr(probes, "PROGRAMS", Path("/nowhere"))
    with pytest.raises(RuntimeError, match="its source is not at /nowhere/sm90.cu: use a checkout of alexkern"):
        probes.build("sm90", (9, 0))


def test_what_torch_itself_computes_is_the_definition_where_nothing_is_dropped() -> None:
    """Which a backend is timed beside."""
    for operator, count in (("dropout", 1), ("linear_relu_dropout", 3)):
        reference = served()[operator].reference
        args = reference.cases[0].draw(torch.float32, CPU, False)
        tensors, seed, relu = args[:count], args[count], args[count + 2 :]
        plain, nothing = reference.plain(*tensors, seed, 0.0), reference.forward(*tensors, None, 0.5, *relu)
        assert torch.equal(plain, nothing)
        half = reference.plain(*tensors, seed, 0.5)
        torch.testing.assert_close(half[half != 0], 2 * nothing[half != 0])
        assert 0.3 < (half != 0).sum() / (nothing != 0).sum() < 0.7
        assert not reference.forward(*tensors, seed, 1.0, *relu).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_normalisation_in_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    (reference,) = (one.reference for name, one in served().items() if name.startswith("local"))
    image, *args = reference.cases[1].draw(dtype, CPU, False)
    assert torch.equal(reference.forward(image, *args), reference.forward(image.float(), *args).to(dtype))


def test_a_report_reads_as_is_pinned() -> None:
    right, wrong, hung, timed = Row("dropout", "cpu"), Row("dropout", "cuda"), Row("augment", "cuda"), Row("a", "torch")
    near, far, nan = (
        {"what": f"output of {error}", "error": error, "allowed": 0.5} for error in (0.25, 0.75, math.nan)
    )
    right.add_all([near, {"what": "grad", "error": 0.5, "allowed": 0.5}])
    wrong.add_all([far, near, nan], "crashes: SIGSEGV")
    hung.add_all([{"failure": "case: ValueError: no"}])
    timed.add_all([near, {"ms": {"float32": 0.123456}, "torch_ms": {"float32": 2.0, "bfloat16": 12345.0}}])
    absent = [Row(name, "triton", "not installed") for name in ("dropout", "augment")]
    rows = [right, wrong, hung, timed, *absent, Row("b", "triton", "switched off"), Row("c", "cpu")]
    tried = [Probe("parity", True), Probe("boxes", False, "hangs"), Probe("open", True, documented=False),
             Probe("shut", False, "no", documented=False), Probe("new", None, "there is no nvcc")]  # fmt: skip
    report = Report({"chip": "A CPU", "driver": "none"}, tried, rows, 1.5)
    data = report.as_data()
    hold("verify", [*str(report).splitlines(), *report.failed, *map(str, data["rows"])])
    shown = str(Report({"chip": "A"}, (), rows[:1], 1.0)).splitlines()
    assert shown[1:3] == ["", "operator  backend  checks  error/allowed"]
    assert (data["passed"], data["seconds"], len(data["probes"])) == (False, 1.5, 5)
    assert Report({}, tried[2:], rows[:1], 1.0).as_data()["passed"]  # of an open probe nothing is expected
    assert not Report({}, tried, rows[:1], 1.0).as_data()["passed"]
    assert right.found == {"passed": True, "worst": 1.0, "failure": None, "ms": {}, "torch_ms": {}}
    assert report.operators.keys() == {"dropout", "augment", "a", "c"}
    assert report.operators["dropout"] == {"cpu": right.found, "cuda": wrong.found}


def test_a_survey_names_the_device_and_what_does_not_serve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "missing", lambda *of: " ".join(map(str, of)))
    first, here = survey(CPU)
    assert first == {"at": "looking at the device"} and here["identity"] == verified.identity(CPU)
    assert here["capability"] is None and here["memory"] == math.inf
    assert here["missing"].keys() == dispatch.PACKAGES.keys() and here["missing"]["cuda"].keys() == served().keys()
    assert here["missing"]["cuda"]["dropout"]["bfloat16"] == "cuda dropout cpu torch.bfloat16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 9))
    monkeypatch.setattr(verified, "identity", lambda device: {})
    *_, here = survey(torch.device("cuda"))
    assert (here["capability"], here["memory"]) == ((9, 0), 7)


def test_an_operator_is_tried_in_the_arithmetics_that_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, *messages = child.check_operator(CPU, "dropout", "torch", ["float32"], False)
    assert tried == {"at": "loading"}
    assert messages and all(" in float32" in message.get("at", message.get("what")) for message in messages)
    monkeypatch.setattr(child, "check", lambda *_: (_ for _ in ()).throw(ValueError("no\nmore")))
    _, at, failed, *_ = child.check_operator(CPU, "dropout", "torch", ["float32"], False)
    assert failed == {"failure": f"{at['at']}: ValueError: no"}


def test_processes_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """One an arithmetic where all that is tried has to be compiled first; none where nothing can be."""
    missing = {name: {"dropout": {"float32": None, "float16": "slow", "bfloat16": None}} for name in dispatch.PACKAGES}
    for device, backend, wanted in (
        ("cpu", "triton", [["float32", "bfloat16"]]), ("cuda", "torch", [["float32", "bfloat16"]]),
        ("cuda", "triton", [["float32"], ["bfloat16"]]),
    ):  # fmt: skip
        run = verifying._Run(torch.device(device), None, 1.0, False)
        assert run.parts(Row("dropout", backend), missing) == wanted
        assert run.parts(Row("dropout", backend, "absent"), missing) == []
        assert run.parts(Row("dropout", backend, failures=["no"]), missing) == []
    row = verifying._row("dropout", "cpu", {"float32": "not built", "bfloat16": "slow"})
    assert row.absent == "not built" and not row.failures
    monkeypatch.setattr(type(served()["dropout"]), "reference", None)
    assert verifying._row("dropout", "cpu", {"float32": "no", "bfloat16": None}).wrong == [
        "nothing to hold it to: it has no reference"
    ]


@pytest.mark.gpu
@pytest.mark.usefixtures("cache")
def test_gpu_is_right() -> None:
    report = verify()
    assert not report.failed
    assert all(row.ms.keys() == set(trials.ARITHMETIC) for row in report.rows if row.absent is None)
