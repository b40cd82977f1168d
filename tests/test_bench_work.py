"""The limit: operations and bytes of layers and networks, the floors they imply, and predictions for chips."""

from __future__ import annotations

import math
import sys
import zlib
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from alexkern import models
from alexkern.backends import cpu
from alexkern.backends.cpu import crossovers, linear_relu_dropout
from alexkern.bench import ceilings, work
from alexkern.bench import crossovers as measuring
from alexkern.bench.ceilings import Ceilings, measure_ceilings
from alexkern.bench.crossovers import convolution_pairs
from alexkern.bench.layers import ALEXNET, LAYERS, Convolution, Pooling
from alexkern.bench.networks import plain
from alexkern.bench.prediction import balance, is_product, predict, waves, work_of
from alexkern.cost.chips import CHIPS
from alexkern.geometry import Geometry
from alexkern.measure.timing import Plan
from alexkern.tools.workloads import Workload
from support.bench_records import CPU
from support.pinned import hold

# torch counts the filters' gradients of a grouped convolution as if it had no groups.
COUNTED = [(name, backward) for name in sorted(LAYERS) for backward in (False, True)]
COUNTED.remove(("alexnet_2012", True))


@pytest.mark.parametrize(("name", "backward"), COUNTED)
def test_operations_are_those_that_torch_counts(name, backward):
    with torch.device("meta"):
        network = plain(getattr(models, name)())
        images = torch.empty(2, 3, 224, 224)
    with FlopCounterMode(display=False) as counted:
        output = network(images)
        if backward:
            output.sum().backward()
    assert work.total(work.network(LAYERS[name], 2, 4, backward=backward)).flops == counted.get_total_flops()


def test_bytes_of_inference_are_those_of_each_fused_operators_tensors():
    with torch.device("meta"):
        network = plain(models.alexnet())
        images = torch.empty(2, 3, 224, 224)
    moved = sum(parameter.numel() for parameter in network.parameters())
    # What a fused operator reads and writes: the input of every convolution and linear layer, and the output of the
    # pooling, the ReLU of the unpooled convolutions, and the linear layers.
    features = list(network.features)

    def count(module, inputs, output):
        nonlocal moved
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            moved += inputs[0].numel()
        followed = module in features and features.index(module) + 1 < len(features)
        next_one = features[features.index(module) + 1] if followed else None
        if isinstance(module, (nn.MaxPool2d, nn.Linear)):
            moved += output.numel()
        if isinstance(module, nn.ReLU) and module in features and not isinstance(next_one, nn.MaxPool2d):
            moved += output.numel()

    for module in network.modules():
        module.register_forward_hook(count)
    network(images)
    assert work.total(work.network(ALEXNET, 2, 2, backward=False)).bytes == 2 * moved


def test_a_pooling_by_hand():
    pool = Pooling("pool", 2, 7)  # 7 x 7 -> 3 x 3
    assert work.pooling(pool, 1, 4, backward=False) == (work.Part(0, 4 * (98 + 18)),)
    forward, backward = work.pooling(pool, 1, 4, backward=True)
    assert forward.bytes == backward.bytes == 4 * (98 + 18) + 18


def test_a_pooled_convolution_keeps_a_byte_a_winner_for_its_backward_pass():
    layer = Convolution("conv", 3, 9, 4, 3)  # 9 x 9 -> 7 x 7, pooled to 3 x 3
    values = 3 * 81 + 4 * 3 * 9 + 4 + 4 * 9  # input, filters, bias, pooled output
    (inference,) = work.convolution(layer, 1, 2, pooled=True, backward=False, first=False)
    forward, backward = work.convolution(layer, 1, 2, pooled=True, backward=True, first=False)
    assert (inference.bytes, forward.bytes) == (2 * values, 2 * values + 4 * 9)
    # The gradient and the pooled output, the winners, input and filters; their gradients and the bias's.
    assert backward.bytes == 2 * (2 * 4 * 9 + 2 * (3 * 81 + 4 * 3 * 9) + 4) + 4 * 9


class TwoCalls:
    """A timer of two calls, of which the best take 2 s and 0.25 s."""

    def __init__(self):
        self.taken = iter([3.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0] + [0.5, 0.25, 1.0, 1.0, 1.0, 1.0, 1.0])

    def plan(self, call):
        return Plan()

    def sample(self, call, plan):
        call()
        return next(self.taken)


def test_ceilings_are_the_best_of_a_product_and_of_a_copy(monkeypatch):
    monkeypatch.setattr(ceilings.cpu, "missing", lambda device, dtype: "not built")
    monkeypatch.setattr(ceilings, "PRODUCT", {"cpu": 8})
    monkeypatch.setattr(ceilings, "COPIED", {"cpu": 1000})
    assert measure_ceilings(CPU, TwoCalls()) == Ceilings(2 * 8**3 / 2.0, 2 * 1000 / 0.25)


@pytest.mark.skipif(cpu.missing("cpu", torch.float32) is not None, reason="the cpu backend is not there")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("R", "stride", "M"), [(3, 1, 2), (3, 1, 4), (5, 1, 2), (11, 4, 2)])
def test_crossovers_are_measured_between_ours_and_torchs(R, stride, M, dtype):
    if cpu.missing("cpu", dtype) is not None or (dtype == torch.bfloat16 and M == 4):
        pytest.skip("nothing to be measured")
    of = Geometry(2, 3, 40, 36, 5, R, R, (stride, stride), (R // 2, R // 2), (1, 1), 1)
    pairs = convolution_pairs(of, True, M, dtype)
    assert len(pairs) == (3 if M == 4 else 4 if dtype == torch.float32 or R != 5 else 1)
    assert all(name.endswith(", bfloat16") == (dtype == torch.bfloat16) for name in pairs)
    for mine, theirs in pairs.values():
        cpu.native().forget_kernel()
        mine()
        first = cpu.native().last_kernel()
        cpu.native().forget_kernel()
        theirs()
        assert first.startswith("winograd") and ("4x4" in first) == (M == 4)
        assert cpu.native().last_kernel() == (first.replace(" 4x4", "") if M == 4 else "")


@pytest.mark.skipif(cpu.missing("cpu", torch.float32) is not None, reason="the cpu backend is not there")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_linear_layers_and_poolings_are_measured_between_ours_and_torchs(layout, monkeypatch):
    made = []
    gradients = linear_relu_dropout.gradients
    monkeypatch.setattr(linear_relu_dropout, "gradients", lambda *args: gradients(*args) or made.extend(args[-1]))
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args, out: made.append(mm(*args, out=out)))
    for name, (mine, theirs) in measuring.pairs(5, 48, 32).items():
        made.clear()
        got, wanted = mine(), theirs()
        if name == "forward":
            assert got.amin() == 0 < got.amax()
        elif name == "input_grad":
            got, *_ = made
            assert made[1:] == [None, None]
        else:
            _, got, bias, wanted = made
            assert bias.shape == (32,)
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    mine, theirs = measuring.pooling(8, 3, layout, True)
    (values, offsets), (wanted, same_offsets) = mine(), theirs()
    assert values.shape == (335, 8, 3, 3) and values.is_contiguous(memory_format=layout)  # of about 2**17 numbers
    assert torch.equal(values, wanted) and torch.equal(offsets, same_offsets)
    mine, theirs = (call() for call in measuring.pooling(8, 3, layout, False))
    torch.testing.assert_close(mine[0], theirs[0])
    assert mine[0].shape == (335, 8, 7, 7) and mine[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("runs", "took", "calls", "ratio"),
    [
        (1, (1e-3, 4e-3), [3, 2], 4 / 1.5),
        (5, (2**-11, 2**-12), [5 + 4 * 6, 9 + 4 * 10], 0.5),
        (5, (0.25, 0.25), [4, 4], 1.0),
        (5, (0.5, 0.25), [2, 2], 0.5),
    ],
)
def test_a_ratio_is_of_the_least_times_of_samples_by_turns(runs, took, calls, ratio, monkeypatch):
    """As many calls as take 2 ms, and one before them, again and again for a second. The third takes twice as long."""
    clock, done = [0.0], [0, 0]

    def call(place):
        done[place] += 1
        clock[0] += took[place] * (1 + (done[place] == 3))

    monkeypatch.setattr(measuring.time, "process_time", lambda: clock[0])
    assert measuring.ratio(partial(call, 0), partial(call, 1), runs) == pytest.approx(ratio, rel=1e-6)
    assert done == calls


def test_where_ours_is_ahead():
    assert measuring.from_on((2, 4, 8), [1.0, 1.05, 2.0]) == 4
    assert measuring.from_on((2, 4, 8), [1.05, 1.05, 1.05]) == 2
    assert measuring.from_on((2, 4, 8), [2.0, 1.0, 1.05]) == 8
    assert measuring.from_on((2, 4, 8), [2.0, 2.0, 1.0499]) == sys.maxsize
    flags = [True, True, False, True, *[False] * 7, True]
    assert measuring.stretches(flags) == ((1, 2), (8, 8), (128, 128)) and measuring.stretches([False] * 12) == ()


def test_what_is_measured_is_printed_as_is_pinned(monkeypatch, capsys):
    """Each pair is what it is of, and its ratio some number that differs by it."""
    asked = []

    def pair(*of):
        asked.append(" ".join(map(str, of)))
        return asked[-1], ""

    def ratio(mine, theirs, runs):
        assert runs == 3
        return 1 + 0.1 * math.sin(zlib.crc32(f"{mine}{theirs}".encode()))

    monkeypatch.setattr(measuring.cpu, "missing", lambda *_: None)
    monkeypatch.setattr(crossovers, "measured", lambda: "portable")
    monkeypatch.setattr(crossovers, "kernels", lambda: "avx2")
    monkeypatch.setattr(crossovers, "POOLED", {})
    monkeypatch.setattr(measuring.os, "environ", environment := {})
    monkeypatch.setattr(torch, "set_num_threads", lambda count: asked.append(f"{count} threads"))
    monkeypatch.setattr(measuring, "ratio", ratio)
    monkeypatch.setattr(measuring, "pooling", pair)
    monkeypatch.setattr(measuring, "pairs", lambda *of: {name: pair(name, *of) for name in measuring.PRODUCTS})
    names = ("forward", "packed", "input_grad", "weight_grad")

    def convolutions(of, *how):
        return {crossovers.entry_of(name, of, how[-1]): pair(name, of, *how) for name in names}

    monkeypatch.setattr(measuring, "convolution_pairs", convolutions)
    measuring.main("all", 3)
    hold("crossovers", capsys.readouterr().out.splitlines())
    assert asked[0] == "1 threads"
    assert environment == dict(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2", MKL_ENABLE_INSTRUCTIONS="AVX2")
    assert crossovers.POOLED == {"portable": (0, 0)}
    measuring.main("linear", 3)
    assert "POOLED" not in capsys.readouterr().out
    monkeypatch.setattr(measuring.cpu, "missing", lambda *_: "not built")
    with pytest.raises(SystemExit, match="no cpu backend to measure: not built"):
        measuring.main("all", 3)


@pytest.mark.skipif(cpu.missing("cpu", torch.float32) is not None, reason="the cpu backend is not there")
def test_ceilings_of_a_cpu_are_those_of_registers_and_of_memory(monkeypatch):
    monkeypatch.setattr(ceilings, "MULTIPLY_ADDS", 5)
    monkeypatch.setattr(ceilings, "COPIED", {"cpu": 1 << 12})
    lanes = {"portable": 4, "avx2": 8, "avx512": 16}[crossovers.kernels()]
    operations = 2 * lanes * 12 * 8 * torch.get_num_threads()  # of 12 chains, in 8 pieces a thread
    assert measure_ceilings(CPU, TwoCalls()) == Ceilings(5 * operations / 2.0, 2 * (1 << 12) / 0.25)
    source = torch.arange(1.0, 129.0)
    copy = torch.zeros(128)
    cpu.native().stream_through(source.data_ptr(), copy.data_ptr(), 64, 2)
    assert torch.equal(copy, torch.where(source <= 64, source, 0.0))


def launch(programs: int, blocks: int = 1, products: int = 4):
    return SimpleNamespace(kernel="k", grid=(programs, 1, 1), blocks=blocks, products=products, main_loop={"FFMA": 3})


def test_waves_and_balance():
    assert waves(launch(132), 132) == 1 and waves(launch(66, blocks=2), 132) == 0.25
    assert balance(launch(132), 132) == 1 and balance(launch(133), 132) == 133 / 264
    assert balance(launch(33), 132) == 0.25


def test_what_multiplies_matrices():
    def of(products, **loop):
        return SimpleNamespace(products=products, main_loop=loop)

    assert is_product(of(1)) and is_product(of(0, FFMA=16)) and not is_product(of(0, FFMA=15)) and not is_product(of(0))
    assert balance(launch(0), 132) == 1.0 and waves(launch(66, blocks=0), 132) == 0.5


def test_a_prediction_is_the_floor_in_whole_rounds():
    chip, rate = CHIPS["H200"], 2 * 132 * 2048 * 1.83e9  # 989.4 TFLOP/s
    workload = Workload("conv2d_relu", "alexnet", "conv3", 128, "bfloat16")
    flops = 2 * 128 * 13 * 13 * 384 * 192 * 9
    assert work_of(workload, "forward").flops == flops
    full = predict(workload, "forward", [launch(132)], chip)
    assert (full.seconds, full.share) == (pytest.approx(flops / rate), 1.0)
    half = predict(workload, "forward", [launch(133)], chip)
    assert half.share == pytest.approx(133 / 264)
    both = predict(workload, "backward", [launch(132), launch(66), launch(1000, products=0)], chip)
    assert both.seconds == pytest.approx(2 * flops / rate * 1.5)
    pool = Workload("max_pool2d", "alexnet", "pool1", 128, "bfloat16")
    moved = 128 * 64 * (2 * (55**2 + 27**2) + 27**2)
    assert predict(pool, "training forward", [launch(1, products=0)], chip).seconds == pytest.approx(moved / 4.8e12)
