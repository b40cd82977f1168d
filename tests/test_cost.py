"""The cost model: its table of chips, and what it chooses for every layer of the AlexNets (support/choices.txt)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.optional import need

need("triton")
from alexkern.arithmetic import ARITHMETIC  # noqa: E402
from alexkern.backends.cuda import conv2d_relu, emulated, sm90, space_to_depth  # noqa: E402
from alexkern.backends.cuda.conv2d_relu_max_pool2d import problem_of  # noqa: E402
from alexkern.bench import static_report  # noqa: E402
from alexkern.bench.ceilings import published  # noqa: E402
from alexkern.bench.layers import Target  # noqa: E402
from alexkern.cost import chips, sm80, sm80_pooled  # noqa: E402
from alexkern.cost import sm90 as wgmma  # noqa: E402
from alexkern.cost import triton as cost  # noqa: E402
from alexkern.cost.__main__ import DATA, FORWARD, WEIGHT, main, products  # noqa: E402
from alexkern.cost.chips import CHIPS, like  # noqa: E402
from alexkern.geometry import Geometry  # noqa: E402
from alexkern.kernels import conv2d_relu as triton  # noqa: E402
from alexkern.kernels import conv2d_relu_max_pool2d as pooled  # noqa: E402
from alexkern.tools.workloads import Workload  # noqa: E402
from support import choices, pages  # noqa: E402
from support.pinned import hold  # noqa: E402

PINNED = Path(choices.__file__).with_suffix(".txt")
DOCS = Path(__file__).parents[1] / "docs"
LAYERS = dict(choices.convolutions())


def test_choices_are_those_that_are_pinned() -> None:
    """A line that differs is a choice that has changed: where that is meant, write the file anew."""
    pinned = [line for line in PINNED.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert list(choices.lines()) == pinned


@pytest.mark.parametrize("page", pages.PAGES)
def test_tables_of_the_documentation_are_those_that_are_computed(page: str) -> None:
    text = (DOCS / "tables" / f"{page}.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("|")] == [*pages.PAGES[page]()]
    assert "\n".join(["", *pages.shorter_ends(), ""]) in (DOCS / "sm90.md").read_text(encoding="utf-8")


def test_ceilings_are_those_of_the_data_sheets() -> None:
    """In TFLOP/s and TB/s."""
    sheets = {
        "H200": (989.4, 494.7, 66.9, 4.8), "H100": (989.4, 494.7, 66.9, 3.35), "A100": (312, 156, 19.5, 2.039),
        "B200": (2250, 1125, 75, 8), "RTX 3090": (71.2, 35.6, 35.6, 0.936), "RTX 4090": (165.2, 82.6, 82.6, 1.008),
        "RTX 5090": (209.5, 104.8, 104.8, 1.792),
    }  # fmt: skip
    assert CHIPS.keys() == sheets.keys()
    for label, (*flops, memory) in sheets.items():
        found = [CHIPS[label].flops(arithmetic) / 1e12 for arithmetic in ("bfloat16", "tf32", "float32")]
        assert found == pytest.approx(flops, rel=2e-3) and CHIPS[label].memory == pytest.approx(memory * 1e12)
        assert CHIPS[label].flops("float16") == CHIPS[label].flops("bfloat16")


def test_a_gpu_is_as_its_kin_of_the_table() -> None:
    h100 = like("NVIDIA H100 80GB HBM3", (9, 0), 132, 232448)
    assert (h100.name, h100.memory, h100.target) == ("NVIDIA H100 80GB HBM3", 3.35e12, 90)
    small = like("NVIDIA A100-PCIE-40GB MIG", (8, 0), 54, 166912)
    assert (small.num_sms, small.memory, small.l2_bytes) == (54, 2.039e12 / 2, CHIPS["A100"].l2_bytes)
    consumer = like("NVIDIA GeForce RTX 4070", (8, 9), 46, 101376)
    assert (consumer.half, consumer.target, consumer.shared_memory) == (CHIPS["RTX 4090"].half, 89, 101376)
    kin = {(8, 0): "A100", (8, 7): "RTX 3090", (9, 0): "H200", (11, 0): "B200", (12, 1): "RTX 5090"}
    for capability, label in kin.items():
        found = like("Something Else", capability, 20, 101376)
        assert (found.half, found.clock) == (CHIPS[label].half, CHIPS[label].clock), capability


def test_only_wgmma_and_tcgen05_take_operands_from_shared_memory() -> None:
    assert {chip.target for chip in CHIPS.values() if chip.multiplies_shared_memory} == {90, 100}


def observed() -> dict[str, Any]:
    """What Triton, CUDA C++, the static report and the bench make of the H200."""
    chip = like("NVIDIA H200", (9, 0), CHIPS["H200"].num_sms, 232448)  # as a launcher finds its GPU
    layers = (LAYERS["alexnet.conv1"], LAYERS["alexnet.conv3"])
    conv1, conv3 = (choices.convolution_problem(layer, 128, "bfloat16") for layer in layers)
    launch = SimpleNamespace(kernel="k", grid=(500, 1, 1), blocks=1, num_warps=8, products=4, main_loop={})
    calls = (("conv2d_relu", "conv3"), ("max_pool2d", "pool1"))
    workloads = [Workload(operator, "alexnet", layer, 128, "bfloat16") for operator, layer in calls]
    lines = [static_report.Line("cuda", CHIPS["H200"], workload, "forward", launch) for workload in workloads]
    return {
        "config": (triton.configure(conv3, chip), pooled.configure(conv1, choices.POOL, False, chip)),
        "choice": (wgmma.choose(products(layers[1], 16, torch.bfloat16, False)[FORWARD][1], chip),
                   wgmma.choose(wgmma.linear_work(128, 4096, 9216), chip)),
        "report": (lines[0].waves, [one.prediction for one in static_report.predictions(lines, [])]),
        "ceiling": published(CHIPS["H200"], "bfloat16"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"num_sms": 16}, {"config", "choice", "report", "ceiling"}),
        ({"memory": 1e13}, {"config", "choice", "report", "ceiling"}),
        ({"l2_bytes": 9}, {"config", "choice"}),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_one_number_of_the_table_is_seen_wherever_it_counts(
    change: dict[str, Any], seen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = observed()
    monkeypatch.setitem(chips.CHIPS, "H200", replace(CHIPS["H200"], **change))
    after = observed()
    assert {name for name in before if before[name] != after[name]} == seen


@pytest.mark.skipif(emulated.missing() is not None, reason=str(emulated.missing()))
@pytest.mark.parametrize("capability", ["8.0", "9.0"])
def test_launchers_ask_for_the_products_that_are_printed(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setenv("ALEXKERN_EMULATE_CAPABILITY", capability)
    monkeypatch.setattr(space_to_depth, "first_layer_times", lambda *_: sm80.Times(2.0, 1.0))
    monkeypatch.setattr(conv2d_relu, "choose", lambda _, product: asked.append(product) or sm80.Choice(2, 1))
    monkeypatch.setattr(sm90, "choose", lambda _, *work: asked.append(work) or wgmma.Choice(64, 1, 1))
    for module in (conv2d_relu, sm90, space_to_depth):
        monkeypatch.setattr(module, "launch", lambda *_: None)
    for name, layer in LAYERS.items():
        tensors = layer.inputs(2, Target(torch.device("cpu"), torch.bfloat16))
        x, w, b = (each.contiguous(memory_format=torch.channels_last) if each.dim() == 4 else each for each in tensors)
        args = ((layer.stride,) * 2, (layer.padding,) * 2, (1, 1), layer.groups)
        asked.clear()
        output = conv2d_relu.forward(x, w, b, *args)
        conv2d_relu.backward(output, x, w, output, *args, (True, True, True))
        wanted = []
        for call in (FORWARD, DATA, WEIGHT):
            deep = name.endswith("conv1") and call != DATA
            product, work = products(layer, 2, torch.bfloat16, deep)[call]
            served = capability == "9.0" and work is not None
            wanted.append((work, call == WEIGHT) if served else product)
        assert asked == wanted, name


def test_the_command_prints_a_line_a_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conv2d_relu", "--chip", "h200", "--layer", "conv2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("conv2") and line.count(" us") == 2 for line in lines)
    assert "128 x (128 + 64) x 64, 8 warps, 3 stages" in lines[0] and "128 x 192, clusters of 2 (wgmma)" in lines[0]
    assert main(["conv2d_relu_max_pool2d", "--chip", "A100", "--batch", "1", "--dtype", "tf32"]) == 0
    assert "CUDA C++ fused, 128 x 64, 1 x 14 windows" in capsys.readouterr().out
    assert main(["linear_relu_dropout", "--batch", "8"]) == 0
    assert capsys.readouterr().out.count("few rows") == 2


def test_what_the_command_prints_is_what_is_pinned(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that differs is a choice, or a time, that has changed."""
    lines = []
    for chip, dtype, batch in (("H200", "bfloat16", "128"), ("A100", "tf32", "16"), ("RTX 3090", "float32", "1")):
        for operator in ("conv2d_relu", "conv2d_relu_max_pool2d", "linear_relu_dropout"):
            main([operator, "--chip", chip, "--dtype", dtype, "--batch", batch])
            lines += [f"{chip}, {dtype}, {batch}: {operator}", *capsys.readouterr().out.splitlines()]
    hold("cost", lines)


def test_products_of_filters_strides_and_images_that_are_no_squares() -> None:
    geometry = Geometry(2, 10, 7, 11, 9, 3, 5, (1, 2), (0, 2), (1, 1), 1)
    N, C, H, W, K, R, S, *_ = geometry
    P, Q = geometry.P, geometry.Q
    assert sm80.forward_product(geometry, 12) == (N * P * Q, K, R * S * 12, 1)
    assert sm80.data_product(geometry, 12) == (N * H * W // 2, C, R * S * 12 // 2, 2)
    assert sm80.weight_product(geometry, 12) == (K, R * S * 12, N * P * Q, 1)
    halves = geometry._replace(groups=2, K=8)
    assert sm80.data_product(halves, 12) == (N * H * W // 2, C // 2, R * S * 12 // 2, 4)


def modelled(layer: Any, batch: int, arithmetic: str, chip: chips.Chip) -> list[float]:
    """Times of every way that the models know: mma.sync's products, the first layer's, pooled ones, Triton's."""
    dtype, precision = ARITHMETIC[arithmetic]
    geometry, size = layer.geometry(batch), dtype.itemsize
    found = []
    for product, work in products(layer, batch, dtype, False).values():
        ways = [wgmma.Choice(64, 1, 1), wgmma.Choice(256, 3, 2)] if work is not None else []
        found += [wgmma.modelled_cycles(work, way, chip) for way in ways]
        times = [sm80.time_of(sm80.Choice(tile, splits), size, product, chip) for tile in (0, 2) for splits in (1, 7)]
        found += [*times, sm80.time_of(sm80.choose(size, product, chip), size, product, chip)]
    if layer.stride == 4:
        for gradient, in_place in ((True, False), (False, True)):
            found += sm80.first_layer_times(size, geometry, gradient, in_place, chip)
    for offsets in (True, False):
        pool = problem_of(dtype, precision == "tf32", geometry, offsets)
        found += sm80_pooled.compare(pool, chip)[1:]
        found += [sm80_pooled._products_time(sm80_pooled.Plan(1, 13, rows), pool, chip) for rows in (1, 4)]
        problem = choices.convolution_problem(layer, batch, arithmetic)
        found.append(pooled.separate_cycles(problem, offsets, chip))
        config = pooled.configure(problem, choices.POOL, offsets, chip)
        found += [pooled.fused_cycles(problem, config, offsets, chip)] if config.fused else []
    product = triton.product(choices.convolution_problem(layer, batch, arithmetic))
    tile = cost.tiles(dtype, product.precision, chip)[0]
    return [*found, *(cost.cycles(tile, product, chip, splits) for splits in (1, 3))]


def test_what_the_models_make_of_layers_is_what_is_pinned() -> None:
    lines = []
    for name in ("alexnet.conv1", "alexnet.conv2", "alexnet_2012.conv2"):
        for chip in ("H100", "A100", "B200", "RTX 4090"):
            for batch, arithmetic in ((1, "bfloat16"), (16, "tf32"), (128, "float32")):
                numbers = modelled(LAYERS[name], batch, arithmetic, CHIPS[chip])
                lines.append(f"{name} {chip} {batch} {arithmetic}: {' '.join(f'{one:.5g}' for one in numbers)}")
    hold("modelled", lines)


def test_the_tiles_at_which_registers_are_limited() -> None:
    """Of 32 sums and four warps with mma.sync, by the blocks that fit; on sm_100 of up to four warps."""
    sizes = ((64, 64, 4), (64, 63, 4), (128, 64, 4), (128, 64, 8), (64, 32, 2), (32, 16, 4), (128, 32, 4))
    tiles = [cost.Tile(M, N // 2, N - N // 2, 32, warps, 4) for M, N, warps in sizes]
    most, third, fourth = ({"maxnreg": count} for count in (255, 168, 128))
    limits = {
        ("B200", "float16"): [most, most, most, {}, most, most, most],
        ("B200", "tf32"): [most, most, most, {}, most, most, most],
        ("B200", "float32"): [fourth, fourth, fourth, {}, most, fourth, fourth],
        ("H200", "float16"): [{}] * 7,
        ("A100", "float16"): [fourth, {}, {}, {}, {}, {}, fourth],
        ("A100", "float32"): [{}] * 7,
        ("A100", "tf32"): [third, {}, {}, {}, {}, {}, most],
        ("RTX 4090", "float16"): [fourth, {}, {}, {}, {}, {}, third],
        ("RTX 4090", "tf32"): [most, {}, {}, {}, {}, {}, most],
    }

    def limit(tile: cost.Tile, label: str, arithmetic: str) -> dict[str, int]:
        dtype = torch.float16 if arithmetic == "float16" else torch.float32
        return cost.register_limit(tile, dtype, "tf32" if arithmetic == "tf32" else "ieee", CHIPS[label])

    for case, wanted in limits.items():
        assert [limit(tile, *case) for tile in tiles] == wanted, case
    assert limit(cost.Tile(64, 64, 0, 32, 4, 1), "RTX 4090", "tf32") == fourth


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        ([], "there is no CUDA device that torch can use"),
        ([(9, 0), (7, 5)], "they need compute capability 8.0, and a GPU here has 7.5"),
        ([(9, 0), (8, 0)], None),
    ],
)
def test_which_gpus_cannot_be_used(
    capabilities: list[tuple[int, int]], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    assert chips.unusable("they") == words


def test_a_gpu_of_this_machine_is_asked_for_its_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(
        name="NVIDIA H100", major=9, minor=0, multi_processor_count=66, shared_memory_per_block_optin=7
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found if index == 31 else None)
    assert vars(chips.here(31)) == vars(like("NVIDIA H100", (9, 0), 66, 7)) and chips.here(31) is chips.here(31)
    chips.here.cache_clear()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["conv3d"], "conv3d"),
        (["conv2d_relu", "--chip", "h900"], "H900"),
        (
            ["conv2d_relu", "--layer", "conv2", "conv9"],
            "--layer must be of conv1, conv2, conv3, conv4, conv5, got conv9",
        ),
        (["conv2d_relu", "--batch", "0"], "argument --batch: wanted a whole number from 1 to 65,536, got '0'"),
    ],
    ids=["operator", "chip", "layer", "batch"],
)
def test_a_name_that_is_unknown_gets_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and words in error
