"""The static report: what it says of a launch, that it predicts and measures nothing, and one kernel all the way."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

from alexkern import cli
from alexkern.bench import record, report, static_cuda, static_report
from alexkern.cost.chips import CHIPS
from alexkern.tools import rehearsal
from alexkern.tools.sass import Launched
from alexkern.tools.workloads import Workload
from support import bench_records
from support.optional import need
from support.pinned import hold

CONV = Workload("conv2d_relu", "alexnet", "conv3", 128, "bfloat16")
LAUNCH = Launched(
    kernel="conv2d_relu_kernel", tile="BLOCK_M=128 BLOCK_K=64", target=90, grid=(338, 1, 1), num_warps=8,
    registers=180, shared=122880, blocks=1, main_loop={"IMAD": 29, "SEL": 21, "HGMMA": 8}, products=8,
    stack=0, local=0, opcodes={}, commits=0, loads={}, stores={}, copies={},
)  # fmt: skip


def line(chip="H200", call="forward", backend="triton", **changes) -> static_report.Line:
    return static_report.Line(backend, CHIPS[chip], CONV, call, dataclasses.replace(LAUNCH, **changes))


def rendered(lines, records=()) -> str:
    output = io.StringIO()
    static_report.render(lines, static_report.predictions(lines, records), Console(file=output, width=160))
    return output.getvalue()


def test_a_launch_has_its_waves_its_occupancy_and_its_main_loop():
    one = line()
    assert one.waves == pytest.approx(338 / 132) and one.occupancy == 8 / 64
    assert one.mix == "58 (8 tensor): IMAD 29 SEL 21 HGMMA 8"
    assert line("A100", target=80, blocks=2).waves == pytest.approx(338 / 216)


def test_a_prediction_is_called_one_and_stands_beside_the_measurement_of_its_own_chip_and_backend(tmp_path):
    lines = [line("H200"), line("H100"), line("A100", target=80), line("H200", backend="cuda")]
    text = rendered(lines)
    assert text.count(", prediction") == 3 and text.count("not measured") == 6
    assert "it is no measurement" in text
    waste = 338 / (3 * 132)
    seconds = 2 * 128 * 13 * 13 * 384 * 192 * 9 / (2 * 132 * 2048 * 1.83e9) / waste
    assert f"{seconds * 1e6:.1f} us, {waste:.0%}" in text

    gpu = {"gpu": "NVIDIA H200", "date": "2026-02-02", "cuda": "13.0"}
    made = bench_records.record(machine=gpu, targets=(bench_records.HALF,), operator_batch=128)
    conv3 = next(one for one in made.entries if one.labels.get("layer") == "conv3" and one.labels["pass"] == "forward")
    measured = record.Measured("alexkern triton", ours=True, median=41.5e-6, lower=41e-6, upper=42e-6, rounds=5)
    entry = dataclasses.replace(conv3, variants=(*conv3.variants, measured))
    report.write(dataclasses.replace(made, entries=(entry,)), tmp_path / "nvidia-h200")
    found = static_report.records(tmp_path)
    predicted = static_report.predictions(lines, found)
    assert [one.measured for one in predicted] == [41.5e-6, None, None, None]
    assert "0.04 ms" in rendered(lines, found)
    report.write(bench_records.record(), tmp_path / "a-cpu")
    assert static_report.records(tmp_path) == found


def test_the_report_reads_as_is_pinned():
    lines = [line(), line(stack=8, local=4, tile=""), line("A100", "training forward", target=80, main_loop={})]
    lines.append(line(backend="cuda", grid=(1, 2, 3)))
    text = rendered(lines) + "\n".join(static_report.as_json(lines, static_report.predictions(lines, [])))
    hold("static report", text.splitlines())


@pytest.mark.parametrize("terminal", [True, False])
def test_the_command_asks_for_what_is_typed(terminal, monkeypatch, capsys):
    asked = []

    def made(backend):
        return lambda problems, chips, *jobs: (
            asked.append((backend, *chips, len(problems), *jobs)) or [line(backend=backend)]
        )

    monkeypatch.setattr(static_report, "missing", lambda backend: None)
    monkeypatch.setattr(static_report, "triton_lines", made("triton"))
    monkeypatch.setattr(static_report, "cuda_lines", made("cuda"))
    monkeypatch.setattr(static_report, "records", lambda: [])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("COLUMNS", "90")
    of = ["--chips=H200,A100", "--operators=dropout", "--batches=3,5", "--jobs=7"]
    assert static_report.main(of) == 0
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    widest = max(map(len, shown.splitlines()))
    assert (widest <= 90) is terminal and "prediction: what the tiles allow" in " ".join(shown.split())
    assert asked == [("triton", CHIPS["H200"], CHIPS["A100"], 4, 7), ("cuda", CHIPS["H200"], CHIPS["A100"], 4)]
    asked.clear()
    assert static_report.main([*of, "--backends=cuda", "--layers=before fc7", "--dtypes=float16", "--json"]) == 0
    assert asked == [("cuda", CHIPS["H200"], CHIPS["A100"], 2)]
    assert [[*json.loads(text)] for text in capsys.readouterr().out.splitlines()] == [["kernel"], ["prediction"]]
    assert static_report.main([*of, "--backends=cuda", "--layers=conv1"]) == 0  # which no dropout has
    assert len(asked) == 1


def test_a_compiler_that_fails_is_one_line(monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("alexkern: nvcc failed\nand more")

    monkeypatch.setattr(static_report, "missing", lambda backend: "no nvcc" if backend == "cuda" else None)
    monkeypatch.setattr(static_report, "triton_lines", fails)
    for backends, words in (
        ("triton", "nvcc failed"),
        ("triton,cuda", "the cuda kernels cannot be compiled: no nvcc (--backends names those that are)"),
    ):
        assert cli.main(["bench", "--static", f"--backends={backends}"]) == 2
        assert capsys.readouterr().err == f"alexkern bench: {words}\n"


def reported(*arguments: str) -> list[dict]:
    """What the command prints as JSON."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "alexkern", "bench", "--static", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=env)
    assert done.returncode == 0, done.stderr
    return [json.loads(text) for text in done.stdout.splitlines()]


def check_pool5(found: list[dict], chip: str, target: int) -> None:
    """Of max_pool2d on pool5 at batch 4, in bfloat16."""
    kernels = [one["kernel"] for one in found if "kernel" in one]
    assert {one["call"] for one in kernels} == {"forward", "training forward", "backward"}
    assert all(one["chip"] == chip and one["target"] == target and 8 < one["registers"] < 256 for one in kernels)
    assert all(one["blocks"] >= 1 and 0 < one["occupancy"] <= 1 and one["waves"] > 0 for one in kernels)
    forward = next(one["prediction"] for one in found if one.get("prediction", {}).get("call") == "forward")
    assert forward["seconds"] == pytest.approx(2 * 4 * 256 * (13**2 + 6**2) / CHIPS[chip].memory)


POOL5 = ("--operators=max_pool2d", "--layers=pool5", "--batches=4")


def test_a_triton_kernel_is_compiled_for_a_chip_that_is_not_here():
    need("triton")
    check_pool5(reported(*POOL5, "--chips=A100", "--backends=triton", "--jobs=1"), "A100", 80)


def test_every_chip_has_a_name_for_nvcc():
    for chip in CHIPS.values():
        assert static_cuda.NAMES[chip.target].rstrip("a") == "".join(map(str, chip.capability))


@pytest.mark.full
@pytest.mark.skipif(rehearsal.missing() is not None, reason=str(rehearsal.missing()))
def test_a_cuda_kernel_is_compiled_for_a_chip_that_is_not_here_and_chosen_as_there():
    check_pool5(reported(*POOL5, "--chips=H100", "--backends=cuda"), "H100", 90)
    convolution = ("--operators=conv2d_relu", "--layers=conv3", "--batches=128", "--backends=cuda")
    found = reported(*convolution)
    for chip, product in (("A100", "HMMA"), ("H200", "HGMMA")):
        kernels = [one["kernel"] for one in found if one.get("kernel", {}).get("chip") == chip]
        forward = [one for one in kernels if one["call"] == "forward" and one["products"]]
        assert len(forward) == 1 and product in forward[0]["main_loop"] and forward[0]["waves"] > 0.5
