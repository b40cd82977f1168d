"""Settings that have to stand before anything imports torch or triton, and what no test may leave behind."""

from __future__ import annotations

import gc
import importlib.util
import os
import random
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

# Small tensors, and with pytest-xdist a process a core already: threads on top would only fight. In the environment,
# so that the processes that tests start have as many. OMP_NUM_THREADS=2 runs everything on two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a developer has tuned here steers no test: there are no tables in such a folder.
os.environ["ALEXKERN_TUNED"] = os.devnull

import torch  # noqa: E402

# Without a GPU the Triton kernels run in Triton's interpreter, which is chosen when a kernel is defined, and the CUDA
# kernels on the emulator, which compiles them once.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("ALEXKERN_EMULATE", "1")
    # torch.manual_seed formats a stack trace for each kind of device that has not started: as long as a small test.
    for kind in (torch.cuda, torch.xpu, torch.mtia):
        kind.manual_seed_all = lambda seed: None

import pytest  # noqa: E402
from torch import Tensor  # noqa: E402

import alexkern  # noqa: E402
from alexkern import cli  # noqa: E402
from alexkern.bench.storage import make_no_empty_folder  # noqa: E402
from alexkern.frozen.step import PackedRun  # noqa: E402
from alexkern.models import MODELS  # noqa: E402
from alexkern.nn import Match, Weighed  # noqa: E402
from alexkern.ops.operator import Operator  # noqa: E402
from alexkern.ops.registry import OPERATORS  # noqa: E402
from support import interpreter, pinned, shadow, state  # noqa: E402
from support.backends import describe_backends  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--random-order", type=int, metavar="SEED", help="run files, and the tests in each, in any order")
    parser.addoption("--pin", action="store_true", help="write anew what differs from tests/support/pinned.txt")


def pytest_configure(config: pytest.Config) -> None:
    make_no_empty_folder(config)
    pinned.anew = config.getoption("pin")
    if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
        interpreter.hasten()
        shadow.install()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With -n, what needs the GPU goes to one process."""
    if config.getoption("dist") != "load" or not torch.cuda.is_available():
        return None
    from support.scheduling import OneProcessForTheGpu

    return OneProcessForTheGpu(config, log)


def pytest_report_header() -> list[str]:
    return [*alexkern.info().head, *describe_backends()]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu"):
            assert "gpu" in item.nodeid, f"{item.nodeid}: the name of a test that is marked gpu has to say so"
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
    seed = config.getoption("--random-order")
    if seed is not None:
        rng = random.Random(seed)
        files = {item.path: rng.random() for item in items}
        items.sort(key=lambda item: (files[item.path], rng.random()))


def pytest_collection_finish() -> None:
    """What is there before the first test stays: no collection of garbage has to look at it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def small_networks_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs large networks is tested on small ones; test_small_maps.py is about those themselves."""
    monkeypatch.setattr(Weighed, "_key", lambda *_: None)
    monkeypatch.setattr(Match, "gains", lambda *_: True)


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operators that fused layers call, in order."""
    calls: list[str] = []

    def recording(operator: Operator) -> Callable[..., Tensor]:
        function = operator.function
        return lambda *args, **kwargs: (calls.append(operator.name), function(*args, **kwargs))[1]

    for operator in OPERATORS.values():
        monkeypatch.setattr(operator, "function", recording(operator))
    return calls


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three classes with ten images each, from which a small network learns. Nothing is written to it."""
    from support.tiny import write_images

    return write_images(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="session")
def whole(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on them that nothing happened to."""
    from support.tiny import RUN, tiny

    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "alexnet", tiny)
        assert cli.main(["train", str(images), *RUN, "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of some ten thousand parameters in place of alexnet."""
    from support.tiny import tiny

    monkeypatch.setitem(MODELS, "alexnet", tiny)


@pytest.fixture
def run(small: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], list[str]]]:
    """`alexkern train` in this process, with the small network: its status, and the lines on stdout and stderr."""

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        status = cli.main(["train", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """Nothing compiled before, nothing left behind."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many children each layer with a packed weight stood for, in a run."""
    lengths: list[int] = []
    run = PackedRun.run
    monkeypatch.setattr(PackedRun, "run", lambda step, *of: lengths.append(len(step.modules)) or run(step, *of))
    return lengths


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    try:
        return (yield)
    except Exception as error:
        if reason := interpreter.fault(error):
            pytest.skip(reason)
        raise


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """A test that passes only behind another, or breaks one behind it, is found here and not there."""
    with state.kept():
        yield


@pytest.fixture
def generator() -> torch.Generator:
    """Fresh, seeded inputs: the same in every run of a test."""
    return torch.Generator().manual_seed(20120930)
