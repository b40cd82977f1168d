"""alexkern.compare and `alexkern bench --model`: the figures, what has none and why, and that the model stays."""

from __future__ import annotations

import copy
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alexkern
from alexkern import cli
from alexkern import compare as comparing
from alexkern.measure.timing import Samples
from alexkern.nn import FusedSequential
from support.pinned import hold

MODULE: Any = sys.modules["alexkern.compare"]  # alexkern.compare is the function
FORWARD, TRAINING = "forward", "training step"


def network(p: float = 0.5) -> nn.Sequential:
    torch.manual_seed(1)
    head = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(*head, nn.Linear(8 * 16, 16), nn.ReLU(), nn.Dropout(p), nn.Linear(16, 5))


@pytest.fixture
def example() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than all else here."""

    def refuse(model: nn.Module) -> nn.Module:
        raise RuntimeError("no compiler here\nat all")

    monkeypatch.setattr(torch, "compile", refuse)


def test_the_figures(example: Tensor) -> None:
    found = comparing(network(), example, seconds=0.05)
    assert {name: [*figures] for name, figures in found.passes.items()} == {
        FORWARD: ["plain", "fused", "frozen", "compiled"],
        TRAINING: ["plain", "fused", "compiled"],
    }
    for figures in found.passes.values():
        compiled = figures["compiled"]
        assert compiled.time is None and compiled.reason == "does not run: RuntimeError: no compiler here"
        for way, figure in figures.items():
            if way != "compiled":
                assert figure.time is not None and figure.time.median > 0 and len(figure.time.seconds) >= 2
                assert figure.peak is not None and figure.peak >= 0 and figure.reason == ""
                assert figure.error is not None and 0 < figure.error <= 1, way
    assert found.passes[TRAINING]["plain"].peak > 4 * 3 * 8 * 8 * 4  # what is saved, beside the gradients
    lines = str(found).splitlines()
    assert repr(found) == str(found) and lines[0].startswith("Sequential, (4, 3, 8, 8) in float32, on ")
    assert lines[-1] == "training step, compiled: does not run: RuntimeError: no compiler here"


def test_the_table_reads_as_is_pinned() -> None:
    steady, level = Samples((2e-3, 2.01e-3, 2.02e-3) * 3), Samples((1.9e-3, 2.03e-3, 2.1e-3) * 3)
    half, rare = Samples((1e-3,) * 9), Samples((1e-3,))
    plain = MODULE.Figure(steady, 12_340_000, 0.5)
    passes = {
        FORWARD: {"plain": plain, "fused": MODULE.Figure(level, 5, None, "no error: it is noisy"),
                  "frozen": MODULE.Figure(half, None, 1.25), "compiled": MODULE.Figure(reason="does not run: no")},
        TRAINING: {"plain": MODULE.Figure(half), "fused": MODULE.Figure(rare, 0, 0.0)},
    }  # fmt: skip
    found = MODULE.Comparison("Model, (1, 3) in float32, on a CPU", passes)
    hold("compare", str(found).splitlines())
    data = found.as_data()
    assert data["what"] == found.what and [*data["passes"][TRAINING]] == ["plain", "fused"]
    assert data["passes"][FORWARD]["fused"] == {
        "seconds": 2.03e-3, "peak_bytes": 5, "error": None, "reason": "no error: it is noisy"
    }  # fmt: skip
    assert data["passes"][FORWARD]["compiled"]["seconds"] is None


def test_nothing_changes(example: Tensor) -> None:
    model = network().train()
    model.append(nn.BatchNorm1d(5))
    alexkern.fuse(model)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradient = model[0].weight.grad
    comparing(model, example, seconds=0.01)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert model.training and type(model) is FusedSequential and model[6].p == 0.5
    assert model[0].weight.grad is gradient and torch.equal(torch.get_rng_state(), state)


def test_plain_is_torchs_own() -> None:
    assert [type(module) for module in MODULE.plain(alexkern.fuse(network())).modules()][0] is nn.Sequential


@pytest.mark.parametrize(("name", "way"), [(FORWARD, "frozen"), (FORWARD, "fused"), (TRAINING, "fused")])
def test_a_wrong_result_is_seen(name: str, way: str, example: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = getattr(MODULE, {"frozen": "freeze", "fused": "fuse"}[way])

    def wrong(model: nn.Module, **arguments: Any) -> nn.Module:
        twin: nn.Module = real(model, **arguments)
        twin.register_forward_hook(lambda module, args, output: output * 1.001)
        return twin

    monkeypatch.setattr(MODULE, real.__name__, wrong)
    figures = comparing(network(), example, seconds=0.01).passes[name]
    assert figures[way].error > 10 > figures["plain"].error


def test_the_worst_tensor_by_the_larger_of_torchs_errors() -> None:
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    ours = [torch.ones(3) + 1e-3, torch.full((3,), 1e-3), torch.empty(0)]
    torchs = [[torch.ones(3) + near, torch.full((3,), near), torch.empty(0)] for near in (1e-5, 1e-4)]
    found = MODULE._ratio(ours, [one, zero, torch.empty(0).double()], torchs)
    assert found == pytest.approx(1e-3 / 2e-4, rel=1e-2)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        return {"sum": nn.functional.dropout(self.layer(input), training=self.training)}


class Single(nn.Module):
    """Which runs in float32 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype != torch.float32:
            raise TypeError("float32 alone")
        return input * self.weight


def test_errors_that_mean_nothing_are_left_out(example: Tensor) -> None:
    found = comparing(Noisy(), example, seconds=0.01).passes
    assert found[FORWARD]["fused"].error is not None
    assert found[TRAINING]["fused"].error is None and found[TRAINING]["fused"].time is not None
    assert found[TRAINING]["fused"].reason == "no error: the model gives other numbers in every run"
    assert comparing(Single(), example, seconds=0.01).passes[FORWARD]["plain"].reason == (
        "no error: TypeError: float32 alone"
    )


def test_arguments(example: Tensor) -> None:
    with pytest.raises(TypeError, match=r"alexkern.compare: model must be a torch.nn.Module, got function"):
        comparing(network, example)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"alexkern.compare: example must be a Tensor, got tuple"):
        comparing(network(), (4, 3, 8, 8))  # type: ignore[arg-type]
    with pytest.raises(alexkern.ArgumentError, match="0.weight on meta, example on cpu"):
        comparing(network().to("meta"), example)


FACTORIES = """
import torch
from torch import nn
value, text = 3, lambda: "no module"
def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
def broken():
    raise KeyError("weights\\x1b[2J")
class Inside:
    network = staticmethod(lambda: network().half().float())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "factories_of_a_test.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("factory", ["network", "Inside.network"])
def test_the_command(factory: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from alexkern.commands import bench

    monkeypatch.setattr(bench, "compare", lambda model, example: comparing(model, example, seconds=0.01))
    line = ["bench", "--model", f"factories_of_a_test:{factory}", "--input", "2,3,8,8"]
    assert cli.main(line) == 0
    assert capsys.readouterr().out.startswith("Sequential, (2, 3, 8, 8) in float32, on ")
    assert cli.main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["what"].startswith("Sequential, (2, 3, 8, 8) in float32, on ")
    ways = {name: list(figures) for name, figures in found["passes"].items()}
    assert ways == {FORWARD: ["plain", "fused", "frozen", "compiled"], TRAINING: ["plain", "fused", "compiled"]}
    for figure in (figure for figures in found["passes"].values() for figure in figures.values()):
        assert list(figure) == ["seconds", "peak_bytes", "error", "reason"]
        assert (figure["seconds"] or 0) > 0 or figure["reason"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--model factories_of_a_test --input 1,3,8,8", "--model must be package:factory, got 'factories_of_a_test'"),
        ("--model :network --input 1,3,8,8", "--model must be package:factory, got ':network'"),
        ("--model nowhere:network --input 1,3,8,8", "nowhere:network cannot be imported: ModuleNotFoundError: .*"),
        ("--model factories_of_a_test:other --input 1,3,8,8", ".*:other cannot be imported: AttributeError: .*"),
        ("--model factories_of_a_test:value --input 1,3,8,8", ".*:value must be callable, got int"),
        ("--model factories_of_a_test:text --input 1,3,8,8", r".*:text\(\) must give a torch.nn.Module, got str"),
        ("--model factories_of_a_test:broken --input 1,3,8,8", r".*:broken\(\) fails: KeyError: 'weights\\x1b\[2J'"),
        (
            "--model factories_of_a_test:network --input 1,3,9,9",
            ".*:network with input 1,3,9,9: RuntimeError: .*mat1.*",
        ),
        ("--model factories_of_a_test:network", "--model needs --input, positive whole numbers as .*; got None"),
        ("--model factories_of_a_test:network --input 1x3", "--model needs --input, .*; got '1x3'"),
        ("--model factories_of_a_test:network --input 0,3", "--model needs --input, .*; got '0,3'"),
        ("--model factories_of_a_test:network --input 1,3 -k x", "unrecognized arguments: -k x"),
        ("--input 1,3", "--input is for --model"),
    ],
)
def test_bad_input_to_the_command(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *arguments.split()]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and re.fullmatch(f"alexkern bench: {words}\n", shown.err), shown.err


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_compiled(example: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    figures = comparing(network(), example, seconds=0.05).passes[FORWARD]["compiled"]
    assert figures.time is not None and figures.error is not None and figures.error <= 1, figures.reason
