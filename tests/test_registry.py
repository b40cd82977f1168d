"""What is told of operators is told by the registry: a seventh one, planted there, is everywhere."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import alexkern
from alexkern import dispatch, functional
from alexkern.arithmetic import DTYPES
from alexkern.backends import cuda
from alexkern.bench import bench_overhead, static_report
from alexkern.bench.layers import LAYERS, Layers, Modules, Normalization
from alexkern.commands import tune
from alexkern.compiler import compile_graph
from alexkern.nn import Match, match
from alexkern.ops.registry import OPERATORS, served
from alexkern.references.reference import Case, Reference
from alexkern.tools import rehearsal
from alexkern.tools.workloads import having, workloads
from support import oracle, routes, seventh
from support.backends import serving
from support.bench_records import CPU, options
from support.cases import SUITES, cases

TESTS = Path(__file__).parent


def test_every_operator_has_its_face_and_its_tests() -> None:
    assert list(SUITES) == list(oracle.PLAIN) == list(OPERATORS)
    assert set(functional.__all__) == set(served())
    for name, operator in OPERATORS.items():
        assert operator.name == name and operator.function is getattr(functional, name)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(OPERATORS, seventh.NAME, seventh.OPERATOR)
    return seventh.NAME


LACKING = f"this version of alexkern has no {{}} kernel for {seventh.NAME}"


def test_dispatch_and_info_have_it(planted: str) -> None:
    others = {name: LACKING.format(name) for name in dispatch.PACKAGES if name != "torch"}
    assert dispatch.explain(OPERATORS, torch.device("cpu"))[-1] == dispatch.Explanation(planted, "torch", others)
    assert serving(planted) == ["torch"]
    report = str(alexkern.info())
    assert f"\n{planted}\n  served by torch\n" in report and all(why in report for why in others.values())
    with alexkern.backend("cuda"), pytest.raises(alexkern.BackendUnavailable, match=others["cuda"]):
        OPERATORS[planted].function(torch.zeros(1))


def test_every_route_and_the_dispatcher_have_it(planted: str, generator: torch.Generator) -> None:
    (case,) = cases(planted)
    (input,) = case.draw(torch.float32, torch.device("cpu"), generator)
    assert input is not None
    leaf = input.clone().requires_grad_()
    wanted = F.softsign(leaf)
    (wanted_grad,) = torch.autograd.grad(wanted, leaf, torch.ones_like(wanted))
    for route in routes.ROUTES:
        output, grads = routes.run(route, case, [input], None)
        assert torch.equal(output, wanted)
        for grad in grads:
            torch.testing.assert_close(grad, wanted_grad)
    torch.library.opcheck(torch.ops.alexkern.softsign.default, ("torch", leaf))
    torch.library.opcheck(torch.ops.alexkern.softsign_backward.default, ("torch", input, input, [True]))


def test_fused_layers_have_it(planted: str, operators: list[str]) -> None:
    found = match([nn.Softsign()], 0, ())
    assert isinstance(found, Match) and found.operator is OPERATORS[planted]
    image = torch.randn(1, 3, 8, 8)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Softsign()).eval()
    with torch.no_grad():
        wanted = plain(image)
        snapshot = alexkern.freeze(plain, image)
        operators.clear()  # of the example
        torch.testing.assert_close(snapshot(image), wanted)
        torch.testing.assert_close(alexkern.fuse(plain)(image), wanted)
    assert operators == [planted, "conv2d_relu", planted]  # the snapshot's convolution is oneDNN's


def test_the_compilers_backend_has_it(planted: str) -> None:
    """Called as a module or as a function, in a network of any style."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.sign = nn.Conv2d(3, 4, 3), nn.Softsign()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return F.softsign(self.sign(self.conv(image)).flatten(1))

    net, image, graphs = Net(), torch.randn(1, 3, 8, 8), []

    def backend(module: fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(module.graph)
        return compile_graph(module, inputs)

    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend=backend)(image), net(image))
    (graph,) = graphs
    assert [node.target for node in graph.nodes].count(seventh.softsign) == 2


def test_the_conformance_suite_has_it(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its entry it knows a case, which fails until the oracle says what is right."""
    (case,) = cases(planted)
    with pytest.raises(LookupError, match=f"PLAIN has to say what {planted} computes"):
        oracle.plain(case, [torch.zeros(1)], None)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    options = ["-q", "-p", "support.seventh", "-p", "no:cacheprovider", "--tb=line", "-k", f"{case}-torch"]
    command = [sys.executable, "-m", "pytest", *options, str(TESTS / "conformance" / "test_accuracy.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"LookupError: tests/support/oracle.py: PLAIN has to say what {planted} computes" in done.stdout
    assert "5 failed" in done.stdout, done.stdout  # four dtypes, and torch's strides


def test_the_bench_has_it(planted: str) -> None:
    rows = [one for one in bench_overhead.overheads(options()) if one.what.startswith(f"{planted}, ")]
    assert [row.what for row in rows] == [f"{planted}, {route}" for route in bench_overhead.ROUTES]
    for route in bench_overhead.ROUTES:
        trial = bench_overhead._trial(planted, route, CPU)
        for variant in ("alexkern", "backend alone"):
            trial.check(variant, trial.prepare(variant)())


def test_the_rehearsal_of_launches_has_it(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cuda backend does: the cases of its reference, in every dtype and both memory formats."""

    def rehearsed() -> list[Any]:
        return [call for call in rehearsal._calls() if OPERATORS[planted] in call.args]

    assert not rehearsed()
    monkeypatch.setattr(cuda, "__path__", [*cuda.__path__, seventh.PLACE])
    monkeypatch.setattr(cuda, planted, None, raising=False)  # both are put back: it is imported for this test alone
    monkeypatch.setitem(sys.modules, f"{cuda.__name__}.{planted}", ModuleType(planted))
    del sys.modules[f"{cuda.__name__}.{planted}"]
    monkeypatch.setattr(seventh.Softsign, "reference", Reference((Case("small", ((1, 8, 9, 9),)),), (), F.softsign))
    calls = rehearsed()
    assert len(calls) == 2 * len(DTYPES)
    for call in calls:
        call()


@dataclass(frozen=True)
class Sign(Normalization):
    def modules(self) -> Modules:
        return (nn.Softsign(),)


def test_the_tools_have_it(planted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On every layer that is its run of modules; for a backend without it they say so."""
    monkeypatch.setitem(LAYERS, "signs", Layers((), normalizations=(Sign("sign1", 8, 9),)))
    (workload,) = workloads(["alexnet", "signs"], ["bfloat16", "tf32"], [2], [planted])
    assert str(workload) == f"{planted} signs sign1 bfloat16 batch 2"
    calls = workload.calls(torch.device("meta"), "torch")
    assert list(calls) == ["forward", "backward"]
    assert calls["forward"]().shape == calls["backward"]()[0].shape == (2, 8, 9, 9)
    assert having("triton", OPERATORS) == list(SUITES)
    assert capsys.readouterr().err.splitlines() == [f"triton.{planted}: {LACKING.format('triton')}"]
    parser = argparse.ArgumentParser()
    tune.add_arguments(parser)
    assert planted in parser.parse_args([]).operators
    monkeypatch.setattr(static_report, "missing", lambda backend: None)
    assert static_report.main([f"--operators={planted}"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"{name}.{planted}: {LACKING.format(name)}" for name in ("triton", "cuda")
    ]
