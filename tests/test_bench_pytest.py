"""The comparison as pytest runs it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import alexkern
import alexkern.bench
from alexkern import cli
from alexkern.bench import record as records
from alexkern.bench import run as bench_run
from alexkern.bench.comparison import Failure, Kind
from alexkern.measure.timing import Samples
from support import zygote
from support.bench_records import comparison, options

BENCH = Path(alexkern.bench.__file__).parent

SYNTHETIC = """
import torch
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, compares

def broken():
    raise RuntimeError("does not work here")

CALLS = {"alexkern": lambda: torch.ones(3), "quick": lambda: None, "broken": broken}

def check(name, result):
    assert (result is None) == (name == "quick")

def source(options):
    assert options.batches == (2, 3)
    variants = [Variant(name, ours=name == "alexkern") for name in CALLS]
    for what in ("first", "second"):
        yield Comparison(Kind.OPERATOR, "nothing", what, tuple(variants), lambda: Trial(CALLS.get, check), 0.1)

bench_synthetic = compares(source)
"""


ISOLATED = [
    "-c", os.devnull, "-o", "python_files=bench_*.py", "-o", "python_functions=bench_*", "-p", "no:cacheprovider",
    "--import-mode=importlib",
]  # fmt: skip


def environment() -> dict[str, str]:
    """pytest-benchmark times nothing in a worker of pytest-xdist, and knows one by its environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}


def python_m(module: str) -> list[str]:
    return zygote.command(f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)")


def ran(*command: object, env: dict[str, str] | None = None, **how: Any) -> subprocess.CompletedProcess[str]:
    words, variables = [*map(str, command)], environment() | (env or {})
    return subprocess.run(words, capture_output=True, text=True, timeout=120, env=variables, **how)


def test_variants_are_entries_of_pytest_benchmark(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(BENCH / "conftest.py", folder)
    (folder / "bench_synthetic.py").write_text(SYNTHETIC)
    record = tmp_path / "record.json"
    options = [f"--benchmark-json={record}", "--benchmark-group-by=param:variant", "--benchmark-save=it"]
    done = ran(*python_m("pytest"), folder, *ISOLATED, "--batches=2,3", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed, 2 skipped" in done.stdout
    assert "not compared: broken in 2 comparisons: RuntimeError: does not work here" in done.stdout
    assert "variant=quick" in done.stdout  # pytest-benchmark's own table, by its own option

    assert [path.name for path in tmp_path.glob(".benchmarks/*/*")] == ["0001_it.json"]
    written = json.loads(record.read_text())
    entries = {(entry["group"], entry["params"]["variant"]): entry for entry in written["benchmarks"]}
    groups = ("nothing, first", "nothing, second")
    assert set(entries) == {(group, name) for group in groups for name in ("alexkern", "quick")}
    for entry in entries.values():
        assert entry["stats"]["rounds"] == len(entry["stats"]["data"]) >= 2
        assert 0 < entry["stats"]["median"] < 1e-3
    assert written["machine_info"]["alexkern"]["torch"] == torch.__version__


def load_conftest():
    spec = importlib.util.spec_from_file_location("bench_conftest", BENCH / "conftest.py")
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    return conftest


class Item:
    """As much of a pytest item, and of a test function, as the conftest asks."""

    def __init__(self, name, group=None, function=None, **params):
        self.name, self.function, self.callspec = name, function, SimpleNamespace(params=params)
        self.marker = None if group is None else SimpleNamespace(kwargs={"group": group} if group else {})

    def get_closest_marker(self, name):
        assert name == "benchmark"
        return self.marker


def configured(conftest, monkeypatch, *arguments, clock="wall"):
    """A config as pytest_configure leaves it, and what it set."""
    seen = {}
    monkeypatch.setattr(torch, "set_num_threads", lambda count: seen.update(threads=count))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(conftest.Options, "read", lambda config: options(clock=clock))
    config = SimpleNamespace(
        stash={}, option=SimpleNamespace(), invocation_params=SimpleNamespace(args=arguments), getoption=lambda *_: None
    )
    conftest.pytest_configure(config)
    return config, seen | vars(config.option)


def test_how_a_run_is_set_up(monkeypatch):
    conftest, folder = load_conftest(), {"benchmark_storage": "file://."}
    for arguments, clock, wanted in (
        ((), "wall", {"benchmark_quiet": True}),
        (("-q", Path("--benchmark")), "cpu", {"threads": 1}),
        (("--benchmark-save=it",), "wall", {}),
        (("-k", "x--benchmark"), "wall", {"benchmark_quiet": True}),
    ):
        config, seen = configured(conftest, monkeypatch, *arguments, clock=clock)
        assert seen == wanted | folder and torch.backends.cudnn.benchmark
        assert config.stash[conftest.RUN].options.clock == clock
    assert conftest.pytest_report_header() == alexkern.info().head


def test_a_test_is_made_for_each_variant_and_the_important_ones_come_first(monkeypatch):
    conftest = load_conftest()
    config, _ = configured(conftest, monkeypatch)
    run = config.stash[conftest.RUN]
    late, soon = (dataclasses.replace(comparison(what=what, alexkern=None, torch=None), priority=priority)
                  for what, priority in (("late", 5), ("soon", 1)))  # fmt: skip
    asked = []
    function = SimpleNamespace(comparisons=lambda of: asked.append(of) or [late, soon])
    made = []
    metafunc = SimpleNamespace(config=config, function=function, parametrize=lambda *of: made.append(of))
    conftest.pytest_generate_tests(metafunc)
    conftest.pytest_generate_tests(SimpleNamespace(config=config, function=SimpleNamespace()))
    assert asked == [run.options] and run.comparisons == {late.group: late, soon.group: soon}
    ((names, cases),) = made
    assert names == ("what", "variant")
    assert [case.id for case in cases] == ["late-alexkern", "late-torch", "soon-alexkern", "soon-torch"]
    assert all("-".join(case.values) == case.id for case in cases)
    (mark,) = cases[2].marks
    assert mark.kwargs == {"group": soon.group, "timer": conftest.replay_clock}
    items = [Item("b", late.group, variant="alexkern"), Item("c", soon.group, variant="torch"), Item("other")]
    items += [Item("no", ""), Item("d", soon.group, variant="alexkern"), Item("e", late.group, variant="torch")]
    conftest.pytest_collection_modifyitems(config, items)
    assert [item.name for item in items] == ["other", "no", "c", "d", "b", "e"]
    conftest.pytest_collection_finish(SimpleNamespace(config=config, items=items))
    assert run.selected == {soon.group: ["torch", "alexkern"], late.group: ["alexkern", "torch"]}


def fixture(conftest, name, config, group, benchmark=None, **of):
    function = getattr(getattr(conftest, name), "_fixture_function", None) or getattr(conftest, name).__wrapped__
    request = SimpleNamespace(config=config, node=Item("test", group))
    return function(request, **of, **({} if benchmark is None else {"benchmark": benchmark}))


def test_a_variant_is_measured_or_checked_and_reported(monkeypatch):
    conftest = load_conftest()
    config, _ = configured(conftest, monkeypatch)
    run = config.stash[conftest.RUN]
    subject = comparison(images=3, alexkern=lambda: torch.ones(3), torch=lambda: torch.zeros(3))
    counted = dataclasses.replace(
        comparison(Kind.COUNT, "memory", alexkern=None, torch=None), variants=subject.variants
    )
    run.comparisons = {subject.group: subject, counted.group: counted}
    outcomes = {"alexkern": Samples((1.0, 2.0)), "torch": Failure("it broke")}
    monkeypatch.setattr(run, "outcome", lambda group, variant: outcomes[variant])
    replayed = []
    monkeypatch.setattr(conftest.replay_clock, "replay", lambda benchmark, seconds: replayed.append(seconds))
    benchmark = SimpleNamespace(disabled=False, extra_info={}, pedantic=lambda function, args: function(*args))
    of = {"what": "conv1", "variant": "alexkern"}
    fixture(conftest, "report", config, subject.group, benchmark, **of)()
    assert replayed == [(1.0, 2.0)]
    assert benchmark.extra_info == {"section": "conv, batch 8", "what": "conv1", "variant": "alexkern", "images": 3}
    for skipped in (fixture(conftest, "report", config, subject.group, benchmark, **of | {"variant": "torch"}),
                    fixture(conftest, "count", config, counted.group, **of | {"variant": "torch"})):  # fmt: skip
        with pytest.raises(pytest.skip.Exception, match="^torch: it broke$"):
            skipped()
    fixture(conftest, "count", config, counted.group, **of)()
    benchmark.disabled = True
    fixture(conftest, "report", config, subject.group, benchmark, **of)()
    with pytest.raises(pytest.skip.Exception, match="^torch: WrongResult: tensor 0 is off by"):
        fixture(conftest, "report", config, subject.group, benchmark, **of | {"variant": "torch"})()
    assert len(replayed) == 1
    either = (pytest.fail.Exception, pytest.skip.Exception)  # a skip that is not caught would skip this test
    with monkeypatch.context() as broken, pytest.raises(either, match="^alexkern: it broke$") as failed:
        broken.setitem(outcomes, "alexkern", Failure("it broke"))
        fixture(conftest, "count", config, counted.group, **of)()
    assert failed.type is pytest.fail.Exception and not failed.value.pytrace
    run.outcomes = {counted.group: outcomes, subject.group: outcomes}
    found = {}
    conftest.pytest_benchmark_update_json(config, found)
    assert found == {"counts": [{"group": counted.group, "variant": "alexkern", "count": 1.5, "unit": "bytes"}]}
    machine = {}
    conftest.pytest_benchmark_update_machine_info(config, machine)
    assert machine["alexkern"]["torch"] == torch.__version__ and "gpu" not in machine["alexkern"]


@pytest.mark.parametrize("status", list(pytest.ExitCode))
def test_a_run_that_came_to_its_end_is_finished_and_shown(status, monkeypatch):
    conftest = load_conftest()
    config, _ = configured(conftest, monkeypatch)
    run, done = config.stash[conftest.RUN], []
    monkeypatch.setattr(run, "finish", lambda: done.append("finished"))
    monkeypatch.setattr(run, "summary", lambda color: f"summary, color={color}")
    conftest.pytest_sessionfinish(SimpleNamespace(config=config), status)
    assert done == ["finished"] * (status in (0, 1))
    config.get_terminal_writer = lambda: SimpleNamespace(hasmarkup="markup")
    reporter = SimpleNamespace(write_sep=lambda *of: done.append(of), write=done.append)
    done.clear()
    conftest.pytest_terminal_summary(reporter, config)
    assert done == []
    run.outcomes = {"a": {}}
    conftest.pytest_terminal_summary(reporter, config)
    assert done == [("=", "who wins, by how much"), "summary, color=markup"]


def test_which_hooks_come_last_and_which_need_pytest_benchmark():
    hooks = {name: hook.pytest_impl for name, hook in vars(load_conftest()).items() if hasattr(hook, "pytest_impl")}
    asked = {name: {key for key, value in of.items() if value is True} for name, of in hooks.items()}
    assert asked == {
        "pytest_collection_modifyitems": {"trylast"}, "pytest_terminal_summary": {"trylast"},
        "pytest_benchmark_update_machine_info": {"optionalhook"}, "pytest_benchmark_update_json": {"optionalhook"},
    }  # fmt: skip


def test_the_bench_is_pytest_of_its_own_files(monkeypatch):
    asked = []
    monkeypatch.setattr(pytest, "main", lambda arguments: asked.append(arguments) or pytest.ExitCode.TESTS_FAILED)
    assert bench_run.main(["-k", "conv"]) == 1
    here, rest = asked[0][0], asked[0][1:]
    assert Path(here) == BENCH and rest == [
        "-c", os.devnull, f"--rootdir={BENCH}", "-p", "no:cacheprovider", "--import-mode=importlib", "-o",
        "python_files=bench_*.py", "-o", "python_functions=bench_*", "-k", "conv",
    ]  # fmt: skip


SLOW = """
import time, torch
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, compares
from alexkern.bench.work import Part

def source(options):
    def call():
        time.sleep(0.01 if options.record is None else 0.05)
        return torch.ones(3)
    for number in range(200):
        variants = (Variant("alexkern", ours=True), Variant("torch"))
        labels = {"model": "alexnet", "pass": "inference", "batch": 2 ** number}
        yield Comparison(Kind.NETWORK, "nets", f"net {number}", variants,
                         lambda: Trial(lambda name: call, lambda name, result: None), 0.01, 8,
                         options.target, (Part(1e6, 1e6),), labels)

bench_slow = compares(source)
"""


def test_a_record_survives_being_killed(tmp_path):
    """SIGKILL in the midst of it: what it had measured is there and whole, with its table, and can be drawn."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    shutil.copy(BENCH / "conftest.py", folder)
    (folder / "bench_slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "pytest", folder, *ISOLATED, f"--record={out}", "--dtypes=float32"]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, env=environment()) as process:
        deadline = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < deadline and entries_in(out) < 3:
            time.sleep(0.02)
        running = process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert running
    record = records.read(out)
    assert 3 <= len(record.entries) < 200
    assert not record.complete
    assert record.ceilings["float32"]["flops"] > 1e8 and record.ceilings["float32"]["bytes"] > 1e7
    first = record.entries[0]
    assert (first.what, first.images, first.labels["model"]) == ("net 0", 8, "alexnet")
    assert all(variant.rounds >= 2 and 0.05 < variant.median < 1.0 for variant in first.variants)
    page = (out / "README.md").read_text()
    assert "| net 0 | " in page and "this run was cut off" in page
    assert not list(out.glob(".*"))
    assert cli.main(["bench", "--report", str(out)]) == 0
    assert (out / "throughput-alexnet-float32.svg").read_text().endswith("</svg>\n")


def entries_in(folder: Path) -> int:
    return len(records.read(folder).entries) if (folder / records.NAME).exists() else 0


BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


OF_POOLING = "(overhead or pool5) and max_pool2d and not conv2d"


@pytest.mark.parametrize("run", ["bench", "tests"])
def test_the_head_says_what_it_runs_on_and_no_folder_is_left(run, tmp_path):
    """With a torchvision that does not import; in the folder where pytest is started."""
    packages, here = tmp_path / "packages", tmp_path / "here"
    (packages / "torchvision").mkdir(parents=True)
    here.mkdir()
    (packages / "torchvision" / "__init__.py").write_text(BROKEN)
    what = {
        "bench": ["-m", "alexkern.bench", "--dtypes=float32", "--benchmark-disable", "-k", OF_POOLING],
        "tests": ["-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__).with_name("test_optional.py"))],
    }[run]
    path = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = ran(sys.executable, *what, cwd=here, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    head = done.stdout.partition("collected")[0].splitlines()
    reason = "torchvision does not import: operator torchvision::nms does not exist"
    assert f"torchvision none ({reason})" in head
    found = {"torch": torch.__version__, "python": platform.python_version(), "processor": "torch uses"}
    for name, words in found.items():
        assert any(line.startswith(f"{name} ") and words in line for line in head), head
    assert {line.split()[0] for line in head if line} >= {"triton", "gpu", "_cpu", "_cuda"}
    assert list(here.iterdir()) == []
    assert run == "tests" or ("19 passed" in done.stdout and "who wins" not in done.stdout)  # checked, and not timed


def test_a_wrong_option_is_one_clear_line():
    done = ran(*python_m("alexkern.bench"), "--peers=torch,turtle")
    assert done.returncode != 0
    assert "'turtle' is none of torch, torch channels_last" in done.stderr
