"""`alexkern tune`: the search, the table that it writes, and all of it on a GPU that a fake timer stands in for."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.optional import need

need("triton")

from alexkern import cli  # noqa: E402
from alexkern.kernels import config  # noqa: E402
from alexkern.kernels.config import TARGETS  # noqa: E402
from alexkern.measure.timing import Samples  # noqa: E402
from alexkern.tools import tuning_gpu  # noqa: E402
from alexkern.tools.tuning import Choice, Tuned, TunedTable, choices, neighbours, search, tune  # noqa: E402
from alexkern.tools.tuning_gpu import same  # noqa: E402
from alexkern.tools.workloads import Workload, having, workloads  # noqa: E402

DEVICE = TARGETS[90]
WORKLOAD = Workload("conv2d_relu", "alexnet", "conv3", 128, "bfloat16")


@dataclasses.dataclass(frozen=True)
class Tile:
    BLOCK_M: int = 64
    BLOCK_N: int = 64
    TAIL_N: int = 0
    num_warps: int = 4
    num_stages: int = 2
    factor: int = 1
    fused: bool = False


def choice(number: int = 0, default: Tile = Tile()) -> Choice:  # noqa: B008  (frozen)
    return Choice(("conv2d_relu", (128, number), "bfloat16"), default, WORKLOAD, "forward")


class FakeBench:
    """Times by a formula; everything is usable but what `refuses` names."""

    def __init__(self, cost: Callable[[Tile], float], refuses: Callable[[Tile], bool] = lambda tile: False) -> None:
        self.cost = cost
        self.refuses = refuses
        self.timed: list[tuple[Any, Tile]] = []

    def usable(self, choice: Choice, configs: Sequence[Tile]) -> list[Tile]:
        return [tile for tile in configs if not self.refuses(tile)]

    def seconds(self, choice: Choice, configs: Sequence[Tile]) -> dict[Tile, float]:
        self.timed += [(choice.key, tile) for tile in configs]
        return {tile: self.cost(tile) for tile in configs}


def distance(tile: Tile) -> float:
    """Fastest at 256 x 128 with 8 warps and 4 stages: three to four steps from the default."""
    steps = [math.log2(tile.BLOCK_M / 256), math.log2(tile.BLOCK_N / 128), math.log2(tile.num_warps / 8)]
    return 1e-6 * (1 + sum(map(abs, steps)) + abs(tile.num_stages - 4))


def test_neighbours_change_one_or_two_tunable_fields_by_one_step() -> None:
    found = neighbours(Tile())
    assert len(found) == len(set(found)) and Tile() not in found
    changed = [{name for name, value in vars(tile).items() if value != getattr(Tile(), name)} for tile in found]
    tunable = {"BLOCK_M", "BLOCK_N", "num_warps", "num_stages"}
    assert all(1 <= len(names) <= 2 and names <= tunable for names in changed)
    assert Tile(BLOCK_M=128) in found and Tile(BLOCK_M=32, num_stages=3) in found
    assert all(type(value) is not float for tile in found for value in vars(tile).values())
    assert len(found) == 8 + 24  # two moves of each of four fields, and of each pair of them
    least = neighbours(Tile(BLOCK_M=1, num_warps=1, num_stages=1))
    assert all(min(tile.BLOCK_M, tile.num_warps, tile.num_stages) >= 1 for tile in least)


def test_search_times_nothing_that_is_unusable_and_nothing_twice_in_a_ring() -> None:
    bench = FakeBench(distance, refuses=lambda tile: tile.BLOCK_M > 128)
    assert search(choice(), bench).config == Tile(BLOCK_M=128, BLOCK_N=128, num_warps=8, num_stages=4)
    assert all(tile.BLOCK_M <= 128 for _, tile in bench.timed)


def test_search_tries_the_others_too() -> None:
    far = Tile(BLOCK_M=1024, BLOCK_N=1024, num_warps=16, fused=True)
    costs = {Tile(): 10e-6, far: 5e-6, dataclasses.replace(far, num_stages=3): 4e-6}
    started = dataclasses.replace(choice(), others=(far, Tile()))
    tuned = search(started, FakeBench(lambda tile: costs.get(tile, 20e-6)))
    assert tuned == Tuned(dataclasses.replace(far, num_stages=3), 4e-6, 10e-6)


def test_search_keeps_the_default_where_nothing_can_be_timed() -> None:
    bench = FakeBench(distance)
    bench.seconds = lambda choice, configs: {}  # type: ignore[method-assign]
    tuned = search(choice(), bench)
    assert tuned.config == Tile() and math.isnan(tuned.seconds)


def test_the_kernels_read_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config.table_path(DEVICE.name, tmp_path)
    list(tune([choice()], FakeBench(distance), TunedTable(path, DEVICE)))
    monkeypatch.setenv("ALEXKERN_TUNED", str(tmp_path))
    config.users_table_for.cache_clear()
    chosen = config.choose("conv2d_relu", (128, 0), torch.bfloat16, DEVICE, Tile())
    assert chosen == Tile(BLOCK_M=256, BLOCK_N=128, num_warps=8, num_stages=4)
    assert config.choose("conv2d_relu", (128, 1), torch.bfloat16, DEVICE, Tile()) == Tile()
    assert config.choose("conv2d_relu", (128, 0), torch.float16, DEVICE, Tile()) == Tile()
    config.users_table_for.cache_clear()
    table = json.loads(path.read_text())
    assert table["device"] == DEVICE.name and table["capability"] == [9, 0]
    assert table["entries"][0]["microseconds"] < table["entries"][0]["default_microseconds"]


def test_an_interrupted_run_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    pending = [choice(number) for number in range(4)]

    class Interrupted(FakeBench):
        def usable(self, choice: Choice, configs: Sequence[Tile]) -> list[Tile]:
            if choice.key[1] == (128, 2):
                raise KeyboardInterrupt
            return super().usable(choice, configs)

    with pytest.raises(KeyboardInterrupt):
        list(tune(pending, Interrupted(distance), TunedTable(path, DEVICE)))
    first = json.loads(path.read_text())["entries"]
    assert [entry["shape"] for entry in first] == [[128, 0], [128, 1]]

    bench = FakeBench(distance)
    done = list(tune(pending, bench, TunedTable(path, DEVICE)))
    assert [found.key for found, _ in done] == [pending[2].key, pending[3].key]
    assert {key for key, _ in bench.timed} == {pending[2].key, pending[3].key}
    entries = json.loads(path.read_text())["entries"]
    assert entries[:2] == first and len(entries) == 4
    assert list(tune(pending, bench, TunedTable(path, DEVICE))) == []


def test_a_failing_write_leaves_the_table_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.json"
    table = TunedTable(path, DEVICE)
    table.add(choice(0), Tuned(Tile(), 1e-6, 1e-6))
    before = path.read_bytes()

    def full(self: Path, text: str, **_: Any) -> int:
        with self.open("w") as file:
            file.write(text[:20])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        table.add(choice(1), Tuned(Tile(), 1e-6, 1e-6))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_has_a_line_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.json"
    table = TunedTable(path, DEVICE)
    for number in (0, 1):
        table.add(choice(number), Tuned(Tile(number), 1.23456e-5, 2.34567e-6))
    first, *lines = path.read_text().splitlines()
    tile = dataclasses.asdict(Tile(0))
    entry = {"backend": "triton", "operator": "conv2d_relu", "shape": [128, 0], "dtype": "bfloat16", "config": tile,
             "microseconds": 12.35, "default_microseconds": 2.35}  # fmt: skip
    assert first == "{" and lines[-2:] == ["  ]", "}"] and lines[-5] == '  "entries": ['
    assert lines[-4] == f"    {json.dumps(entry)}," and json.loads(lines[-3])["shape"] == [128, 1]
    head = {"device": DEVICE.name, "capability": [9, 0]}
    head |= {name: getattr(DEVICE, name) for name in ("num_sms", "shared_memory")}
    assert json.loads(path.read_text()) == head | {"entries": [entry, json.loads(lines[-3])]}
    assert table.done == {choice(0).key, choice(1).key} == TunedTable(path, DEVICE).done


@pytest.mark.parametrize(("gain", "taken"), [(0.0201, True), (0.02, True), (0.0199, False)])
def test_a_step_has_to_pay(gain: float, taken: bool) -> None:
    better = Tile(BLOCK_M=128)
    tuned = search(choice(), FakeBench(lambda tile: (1 - gain) if tile == better else 1.0))
    assert tuned == (Tuned(better, 1 - gain, 1.0) if taken else Tuned(Tile(), 1.0, 1.0))


@pytest.mark.parametrize("last", [1.0, 1.01, None])
def test_the_best_has_to_be_no_slower_than_the_default_side_by_side(last: float | None) -> None:
    better, bench = Tile(BLOCK_M=128), FakeBench(lambda tile: 0.5 if tile == Tile(BLOCK_M=128) else 1.0)
    timed = bench.seconds

    def seconds(choice: Choice, configs: Sequence[Tile]) -> dict[Tile, float]:
        if configs != [Tile(), better]:
            return timed(choice, configs)
        return {Tile(): 1.0} | ({} if last is None else {better: last})

    bench.seconds = seconds  # type: ignore[method-assign]
    assert search(choice(), bench) == (Tuned(better, 1.0, 1.0) if last == 1.0 else Tuned(Tile(), 1.0, 1.0))


def test_choices_are_listed_once_with_what_was_tried_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"forward": {choice(0).key: [1, 2, 3]}, "backward": {choice(0).key: [4], choice(1).key: [5]}}
    asked: list[Any] = []
    monkeypatch.setattr("alexkern.tools.aot.rehearsed", lambda *of: asked.append(of) or SimpleNamespace(choices=found))
    other = dataclasses.replace(WORKLOAD, batch=1)
    assert choices([WORKLOAD, other], DEVICE) == [
        Choice(choice(0).key, 1, WORKLOAD, "forward", (2, 3)), Choice(choice(1).key, 5, WORKLOAD, "backward"),
    ]  # fmt: skip
    assert asked == [(WORKLOAD, DEVICE), (other, DEVICE)]


def test_another_gpus_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    TunedTable(path, TARGETS[80]).add(choice(), Tuned(Tile(), 1e-6, 1e-6))
    with pytest.raises(ValueError, match="table of NVIDIA A100, and the GPU here is NVIDIA H100"):
        TunedTable(path, DEVICE)


@pytest.mark.parametrize("text", ["", "[]", '{"device": "NVIDIA H100"}', '{"device": "NVIDIA H100", "entries": [{}]}'])
def test_a_file_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a table of tuned configurations"):
        TunedTable(path, DEVICE)
    assert path.read_text() == text


class Timer:
    """Of which only settling is asked."""

    settled = 0

    def settle(self) -> None:
        self.settled += 1


def launched(name: str, **constants: int) -> SimpleNamespace:
    return SimpleNamespace(kernel=SimpleNamespace(__name__=name), grid=(1, 2, 3), constants=constants)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[tuning_gpu.GpuBench, list[Any]]:
    """A bench of which nothing is launched: each configuration has a launch of its own and one that all share."""
    measured: list[Any] = []

    def record(call: Any, execute: bool) -> tuple[list[Any], Any]:
        assert execute
        config = Tile(**rehearsed[choice(0).key])
        if config.BLOCK_M == 13:
            raise RuntimeError("it does not run")
        wrong = config.BLOCK_M == 17
        return launches(config), torch.full((2,), 2.0 if wrong else 1.0)

    def launches(config: Tile) -> list[Any]:
        return [launched("shared", BLOCK=8), launched("own", BLOCK=config.BLOCK_M)]

    @contextmanager
    def rehearse(device: Any, table: dict[Any, Any]) -> Iterator[None]:
        rehearsed.update(table)
        yield

    def measure(calls: dict[str, Any], timer: Any, seconds: float, rounds: tuple[int, int]) -> dict[str, Any]:
        found = {name: [one.constants["BLOCK"] for one in call.args[0]] for name, call in calls.items()}
        measured.append((found, seconds, rounds))
        last = {name: blocks[-1] for name, blocks in found.items()}
        return {name: ValueError() if block == 19 else Samples((block / 10,)) for name, block in last.items()}

    rehearsed: dict[Any, Any] = {}
    monkeypatch.setattr(tuning_gpu, "describe", lambda device: DEVICE)
    monkeypatch.setattr(tuning_gpu, "_rehearsed", lambda device, choice, config: launches(config))
    monkeypatch.setattr(tuning_gpu, "rehearse", rehearse)
    monkeypatch.setattr(tuning_gpu, "measure", measure)
    monkeypatch.setattr(tuning_gpu.aot, "record", record)
    monkeypatch.setattr(Workload, "calls", lambda workload, device: {choice(0).call: (str(workload), device)})
    return tuning_gpu.GpuBench(torch.device("cpu"), 3, Timer()), measured


def test_candidates_are_timed_together_by_what_is_their_own(on_a_gpu: Any) -> None:
    bench, measured = on_a_gpu
    sizes = [64, *range(1, 10), 13, 17, 19]
    found = bench.seconds(choice(0), [Tile(size) for size in sizes])
    assert found == {Tile(size): size / 10 for size in (64, *range(1, 10))}
    first, second = measured
    assert first == ({str(number): [size] for number, size in enumerate(sizes[:9])}, 0.5, (10, 50))
    assert second[0] == {"0": [64], "1": [9], "4": [19]}  # neither what does not run nor what computes something else
    assert bench.timer.settled == 9 + 4
    measured.clear()
    assert len(bench.seconds(choice(0), [Tile(7), Tile(8)])) == 2 and measured.pop()[0] == {"0": [7], "1": [8]}
    assert bench.seconds(choice(0), [Tile(7)]) == {Tile(7): 0.7}
    assert measured[0][0] == {"0": [8, 7]}  # alone it has nothing in common
    with pytest.raises(RuntimeError, match="it does not run"):
        bench.seconds(choice(0), [Tile(13), Tile(7)])


def test_tensors_are_made_once_for_a_workload(on_a_gpu: Any) -> None:
    bench, _ = on_a_gpu
    one = choice(0)
    first = bench._call(one)
    assert first == (str(one.workload), torch.device("cpu")) and bench._call(one) is first
    other = dataclasses.replace(one, workload=dataclasses.replace(one.workload, batch=7))
    assert bench._call(other) == (str(other.workload), torch.device("cpu")) and bench._call(one) is not first


class Pool:
    """Processes of which those that compile a Tile of 13 end, and all are gone then."""

    made: list[Any] = []

    def __init__(self, jobs: int, mp_context: Any) -> None:
        self.broken = False
        self.made.append((jobs, mp_context.get_start_method()))

    def submit(self, function: Any, device: Any, choice: Choice, config: Tile) -> Future[bool]:
        if self.broken:
            raise BrokenProcessPool
        assert function is tuning_gpu.compiles and device is DEVICE
        future: Future[bool] = Future()
        if config.BLOCK_M == 13:
            self.broken = True
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(config.BLOCK_M != 5)
        return future

    def shutdown(self, cancel_futures: bool) -> None:
        self.made.append(f"shut down, {cancel_futures}")


def test_a_compiler_that_ends_takes_only_its_own_candidate_along(
    on_a_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning_gpu, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(Pool, "made", [])
    with on_a_gpu[0] as bench:
        assert bench.usable(choice(0), [Tile(1), Tile(13), Tile(5), Tile(7)]) == [Tile(1), Tile(7)]
        assert Pool.made == [(3, "spawn"), "shut down, True", (3, "spawn"), "shut down, True"]
        assert bench.usable(choice(0), [Tile(2)]) == [Tile(2)]
    assert Pool.made[4:] == [(3, "spawn"), "shut down, True"]
    bench.__exit__()
    assert len(Pool.made) == 6


def test_what_compiles_has_to_keep_within_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(tuning_gpu, "_known", {})
    monkeypatch.setattr(tuning_gpu, "_rehearsed", lambda device, choice, config: ["a", "b", "a"])
    monkeypatch.setattr(tuning_gpu.aot, "compile", lambda launch, target: asked.append((launch, target)))
    monkeypatch.setattr(tuning_gpu.aot, "specialisation", lambda launch, target: f"{launch} {target}")
    monkeypatch.setattr(tuning_gpu.aot, "report", lambda launch, target: asked.append(f"{launch} {target}") or launch)
    for breaks, fits in ((None, True), ("b", False)):
        monkeypatch.setattr(tuning_gpu, "resources", lambda report, breaks=breaks: [breaks] if report == breaks else [])
        monkeypatch.setattr(tuning_gpu, "_known", {})
        asked.clear()
        assert tuning_gpu.compiles(DEVICE, choice(0), Tile()) is fits
        assert asked == ["a 90", "b 90"]
    asked.clear()
    strange = dataclasses.replace(DEVICE, capability=(7, 5))
    assert tuning_gpu.compiles(strange, choice(0), Tile()) and asked == [("a", 75), ("b", 75), ("a", 75)]
    monkeypatch.setattr(tuning_gpu.aot, "compile", lambda *_: 1 / 0)
    assert not tuning_gpu.compiles(strange, choice(0), Tile())


def test_a_signature_is_of_kernel_grid_and_constants() -> None:
    one = launched("k", A=1, B=2)
    assert tuning_gpu._signature(one) == ("k", (1, 2, 3), (("A", "1"), ("B", "2")))
    assert tuning_gpu._signature(launched("k", B=2, A=1)) == tuning_gpu._signature(one)
    ran: list[int] = []
    tuning_gpu._replay([partial(ran.append, 1), partial(ran.append, 2)])
    assert ran == [1, 2]


def test_results_agree_up_to_the_order_of_their_sums() -> None:
    for dtype, eps in ((torch.float32, 1e-4), (torch.bfloat16, 2**-5), (torch.float64, 1e-4)):
        largest = torch.tensor([0.0, -8.0], dtype=dtype)
        for factor, agree in ((0.9, True), (1.2, False)):
            assert same([largest + 8 * eps * factor], [largest]) is agree
    offsets, ones = torch.tensor([1, 2]), torch.ones(2)
    assert same((ones, offsets + 1, None), (ones, offsets, None)) and not same(ones * math.nan, ones)
    assert same(torch.zeros(2), torch.zeros(2)) and not same(torch.tensor([1e-30]), torch.zeros(1))


def test_workloads_are_listed_by_operator_layer_batch_and_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    listed = [*workloads(["alexnet", "alexnet_single_tower"], ["tf32", "float16"], [1, 2], ["dropout", "conv2d_relu"],
                         ["conv2", "conv5", "before fc6", "before fc8"])]  # fmt: skip
    assert [str(one) for one in listed] == [
        *(f"dropout alexnet before fc6 float16 batch {batch}" for batch in (1, 2)),
        *(f"dropout alexnet_single_tower before fc8 float16 batch {batch}" for batch in (1, 2)),
        *(f"conv2d_relu {model} {layer} {arithmetic} batch {batch}"
          for model, layer in (("alexnet", "conv2"), ("alexnet", "conv5"), ("alexnet_single_tower", "conv2"),
                               ("alexnet_single_tower", "conv5"))
          for batch in (1, 2) for arithmetic in ("tf32", "float16")),
    ]  # fmt: skip


def test_backends_without_an_operator_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("alexkern.dispatch.absent", lambda backend, name: "not written" if name == "b" else None)
    assert having("triton", ["a", "b", "c"]) == ["a", "c"]
    assert capsys.readouterr() == ("", "triton.b: not written\n")


@pytest.mark.parametrize("operator", ["max_pool2d", "linear_relu_dropout", "conv2d_relu"])
def test_a_workloads_calls_are_its_operators(operator: str) -> None:
    """By torch's backend: forward, with offsets in training, and all gradients, of what has been drawn once."""
    layer = {"max_pool2d": "pool5", "linear_relu_dropout": "fc7", "conv2d_relu": "conv3"}[operator]
    calls = Workload(operator, "alexnet", layer, 2, "float32").calls(torch.device("cpu"), "torch")
    assert [*calls] == ["forward", *["training forward"] * (operator != "conv2d_relu"), "backward"]
    torch.manual_seed(1)
    forward, backward = calls["forward"](), calls["backward"]()
    if operator == "max_pool2d":
        (values, offsets), (trained, kept) = forward, calls["training forward"]()
        assert offsets is None and kept.dtype == torch.uint8 and torch.equal(values, trained)
        (image, *_), forward = calls["forward"].args, values
        assert torch.equal(values, torch.max_pool2d(image, 3, 2)) and image.is_contiguous(
            memory_format=torch.channels_last
        )
    elif operator != "conv2d_relu":
        forward, mask = forward
        assert mask is None and calls["training forward"]()[1] is not None
    images = [one for one in calls["forward"].args if isinstance(one, torch.Tensor) and one.is_floating_point()]
    assert [gradient.shape for gradient in backward] == [image.shape for image in images]
    assert calls["backward"].args[0].shape == forward.shape and calls["backward"].args[0].std() > 0.9
    if operator == "linear_relu_dropout":
        assert 0.15 < (forward != 0).float().mean() < 0.35 and calls["forward"].args[3].tolist() == [0, 0]


def test_workloads_are_listed_once() -> None:
    listed = list(workloads(["alexnet", "alexnet_2012", "alexnet_single_tower"], ["bfloat16", "tf32"], [128]))
    assert len(listed) == len(set(listed))
    products = {workload.operator for workload in listed if workload.arithmetic == "tf32"}
    assert products == {"conv2d_relu", "conv2d_relu_max_pool2d", "linear_relu_dropout"}
    convolutions = [workload for workload in listed if workload.operator == "conv2d_relu"]
    assert len(convolutions) == 2 * (5 + 5 + 3)  # the single tower's conv1 and conv3 are the 2012 network's


@pytest.fixture
def command_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command finds a GPU that Triton compiles for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("alexkern.kernels.missing", lambda device, dtype: None)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("alexkern.kernels.config.describe", lambda device: DEVICE)


@pytest.mark.usefixtures("command_on_a_gpu")
@pytest.mark.parametrize(
    ("gpu", "missing", "interpreted", "words"),
    [
        (False, None, "0", "needs an NVIDIA GPU that torch can use, and there is none here"),
        (True, "triton is not installed", "0", "triton is not installed"),
        (True, None, "1", "TRITON_INTERPRET=1 is set, and an interpreter's times say nothing; unset it"),
        (True, None, "0", "table.json: not a table of tuned configurations (KeyError('device'))"),
    ],
)
def test_what_tuning_needs(
    gpu: bool,
    missing: str | None,
    interpreted: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("alexkern.kernels.missing", lambda device, dtype: missing)
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    monkeypatch.chdir(tmp_path)
    Path("table.json").write_text("{}")
    assert cli.main(["tune", "--out", "table.json"]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("alexkern tune: ") and output.err.endswith(f"{words}\n")
    assert output.err.count("\n") == 1 and Path("table.json").read_text() == "{}"


@pytest.mark.usefixtures("command_on_a_gpu")
def test_the_command_writes_the_gpus_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bench(FakeBench):
        def __init__(self, *_: Any) -> None:
            super().__init__(distance)

        def __enter__(self) -> Bench:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("alexkern.tools.tuning.choices", lambda problems, device: [choice(0), choice(1)])
    monkeypatch.setattr("alexkern.tools.tuning_gpu.GpuBench", Bench)
    monkeypatch.setenv("ALEXKERN_TUNED", str(tmp_path / "own"))
    assert cli.main(["tune"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'own' / 'nvidia-h100.json'}\n"
    path = tmp_path / "new" / "table.json"
    assert cli.main(["tune", "--out", str(path)]) == 0
    output = capsys.readouterr()
    assert output.out == f"{path}\n"
    assert "2/2" not in output.err and "7.00 times as fast" in output.err  # lines: it is no terminal
    assert len(json.loads(path.read_text())["entries"]) == 2
    before = path.read_bytes()
    assert cli.main(["tune", "--out", str(path)]) == 0
    assert path.read_bytes() == before and "times as fast" not in capsys.readouterr().err
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as a terminal
    assert cli.main(["tune", "--out", str(path.with_name("other.json"))]) == 0
    shown = capsys.readouterr().err
    assert "0/2" in shown and "2/2" in shown and "done" in shown


@pytest.mark.usefixtures("command_on_a_gpu")
def test_a_place_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["tune", "--out", str(tmp_path / "file" / "table.json")]) == 2
    rest = "with --out, or a folder with ALEXKERN_TUNED\n"
    assert capsys.readouterr().err == (
        f"alexkern tune: {tmp_path / 'file'} cannot be written to; name a place for table.json {rest}"
    )
    for name in ("HOME", "XDG_CACHE_HOME", "ALEXKERN_TUNED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["tune"]) == 2
    assert capsys.readouterr().err == (
        f"alexkern tune: this user has no home folder; name a place for nvidia-h100.json {rest}"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_running_kernels_never_tunes() -> None:
    script = (
        "import sys, torch, alexkern\n"
        "with alexkern.backend('triton'):\n"
        "    alexkern.functional.dropout(torch.ones(64), 0.5)\n"
        "assert 'alexkern.kernels.dropout' in sys.modules\n"
        "assert not {'alexkern.tools.tuning', 'alexkern.tools.tuning_gpu', 'alexkern.tools.aot'} & set(sys.modules)\n"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Everything but the GPU: launches are recorded and not made, and a launch's time is read off its block size.
ON_A_FAKE_GPU = """
import math, sys
from pathlib import Path
import torch
from triton.runtime.jit import JITFunction
from alexkern.tools import tuning, tuning_gpu
from alexkern.measure.timing import Plan
from alexkern.tools import aot
from alexkern.tools.workloads import workloads
from alexkern.tools.tuning import TunedTable, choices, tune

clock = [0.0]

class FakeTimer:
    def now(self): return clock[0]
    def settle(self): pass
    def plan(self, call, took): return Plan()
    def latency(self, call, plan): return None
    def sample(self, call, plan):
        start = clock[0]
        call()
        return clock[0] - start

def launch(self):
    clock[0] += 1e-6 * (2 + abs(math.log2(self.constants["BLOCK"] / 2048)))

if __name__ == "__main__":
    JITFunction.run = lambda self, *args, **kwargs: None
    aot.Launch.__call__ = launch
    tuning_gpu.same = lambda result, expected: True
    every = tuning.neighbours  # of which one field is enough: each is compiled
    tuning.neighbours = lambda config: [one for one in every(config) if one.num_warps == config.num_warps]
    with tuning_gpu.GpuBench(torch.device("meta"), 1, FakeTimer()) as bench:
        table = TunedTable(Path(sys.argv[1]), bench.device)
        found = choices(workloads(["alexnet"], ["bfloat16"], [128], ["dropout"], ["before fc7"]), bench.device)
        for choice, tuned in tune(found, bench, table):
            print(choice.key, tuned)
"""


def test_the_whole_of_it_on_a_fake_gpu(tmp_path: Path) -> None:
    script, path = tmp_path / "fake.py", tmp_path / "table.json"
    script.write_text(ON_A_FAKE_GPU)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, str(script), str(path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(path.read_text())["entries"]
    assert entry["operator"] == "dropout" and entry["shape"] == [128 * 4096]
    assert entry["config"]["BLOCK"] == 2048
    assert entry["microseconds"] == pytest.approx(2.0) and entry["default_microseconds"] == pytest.approx(3.0)
