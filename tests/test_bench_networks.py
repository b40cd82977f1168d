"""The networks and their layers, and the peers that run them."""

from __future__ import annotations

import dataclasses
import itertools
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import alexkern
from alexkern import models
from alexkern.bench import bench_dropout, history
from alexkern.bench.checks import WrongResult
from alexkern.bench.layers import LAYERS, Target
from alexkern.bench.networks import contenders, plain, training_trial
from alexkern.bench.operators import _expression
from alexkern.bench.options import Options, comma_separated, sizes
from alexkern.bench.peers import PEERS, Peer
from alexkern.bench.peers.cudnn import fuse_pairs
from alexkern.bench.peers.torchvision import Torchvision
from support import bench_records
from support.bench_records import options


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_the_tables_of_layers_are_those_of_the_networks(name):
    with torch.device("meta"):
        network = plain(getattr(models, name)())
        images = torch.empty(2, 3, 224, 224)
    seen: list[tuple[nn.Module, tuple[int, ...]]] = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, _: seen.append((module, tuple(inputs[0].shape[1:]))))
    network(images)

    layers = LAYERS[name]
    convolutions = [(module, shape) for module, shape in seen if isinstance(module, nn.Conv2d)]
    for (module, shape), layer in zip(convolutions, layers.convolutions, strict=True):
        assert shape == (layer.C, layer.H, layer.H)
        sides = [value[0] for value in (module.kernel_size, module.stride, module.padding)]
        fields = layer.K, layer.R, layer.stride, layer.padding, layer.groups
        assert fields == (module.out_channels, *sides, module.groups)
    kinds = [type(module) for module, _ in seen]
    places = [place for place, kind in enumerate(kinds) if kind is nn.Conv2d]
    pooled = [kinds[place + 1 : place + 3] == [nn.ReLU, nn.MaxPool2d] for place in places]
    assert layers.pooled_convolutions == tuple(itertools.compress(layers.convolutions, pooled))

    def shapes(kind):
        return [shape for module, shape in seen if isinstance(module, kind)]

    assert shapes(nn.MaxPool2d) == [(layer.C, layer.H, layer.H) for layer in layers.poolings]
    assert shapes(nn.LocalResponseNorm) == [(layer.C, layer.H, layer.H) for layer in layers.normalizations]
    assert shapes(nn.Dropout) == [(layer.features,) for layer in layers.dropouts]
    hidden = [(module.in_features, module.out_features) for module, _ in seen if isinstance(module, nn.Linear)][:-1]
    assert hidden == [(layer.in_features, layer.out_features) for layer in layers.linears]


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))


TORCH_PEERS = [peer for peer in PEERS if not peer.packages]
CONTIGUOUS = {"torch", "torch.compile contiguous"}  # every other peer of torch's has the faster layout


def layouts(tensor: torch.Tensor) -> set[torch.memory_format]:
    return {one for one in (torch.contiguous_format, torch.channels_last) if tensor.is_contiguous(memory_format=one)}


@pytest.fixture
def convolved(monkeypatch) -> list[set[torch.memory_format]]:
    """The layouts of the images and the filters that torch's convolutions get."""
    seen: list[set[torch.memory_format]] = []
    conv2d = F.conv2d

    def spy(input, weight, *args):
        seen.extend(map(layouts, (input, weight)))
        return conv2d(input, weight, *args)

    monkeypatch.setattr(F, "conv2d", spy)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda *args: spy(*args).relu())  # it needs a GPU
    return seen


@pytest.mark.parametrize("peer", TORCH_PEERS, ids=lambda peer: peer.name)
def test_a_prepared_peer_computes_the_network_and_trains_its_own_parameters(peer, convolved, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)  # whose own work is not in question here
    layout = torch.contiguous_format if peer.name in CONTIGUOUS else torch.channels_last
    for given in (torch.contiguous_format, torch.channels_last):
        network, example = small_network().to(memory_format=given), torch.randn(2, 3, 8, 8).to(memory_format=given)
        expected = network(example)
        convolved.clear()
        result = peer.prepare(network.eval(), example)()
        assert convolved and all(found == {layout} for found in convolved), "timed in a layout that is not its own"
        assert not result.requires_grad
        torch.testing.assert_close(result, expected.detach())
    if peer.trains:
        output = peer.prepare(network.train(), example)()
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.skipif(Torchvision().missing() is not None, reason=str(Torchvision().missing()))
def test_torchvisions_network_drops_out_as_much_as_the_one_it_is_given(convolved):
    network, example = models.alexnet(dropout=0.0), torch.randn(2, 3, 63, 63)
    expected = network(example)
    call = Torchvision().prepare(network, example)
    convolved.clear()
    torch.testing.assert_close(call(), expected)
    assert convolved and all(torch.channels_last in found for found in convolved)


def test_the_row_of_convnet_benchmarks_is_right_in_sixteen_bits(monkeypatch):
    """Where other poolings win than in float32, and gradients go other ways."""
    monkeypatch.setattr(history, "BATCH", 8)
    runners = contenders("alexnet", options(), bench_records.HALF)[:1]
    trial = history._trial(True, runners, bench_records.HALF)
    output, *gradients = trial.prepare("alexkern")()
    trial.check("alexkern", (output, *gradients))
    with pytest.raises(WrongResult):
        trial.check("alexkern", (output, *(3 * gradient for gradient in gradients)))
    with pytest.raises(WrongResult):
        trial.check("alexkern", (1.2 * output, *gradients))


def test_a_peer_whose_gradients_are_zeros_is_wrong_before_it_is_timed():
    """As inductor's may be on a CPU, before a pooling."""

    class Zeros(Peer):
        name, trains = "zeros", True

        def prepare(self, model, example):
            return lambda: model[1:](model[0](example).detach() + 0 * model[0](example))

    class Right(Zeros):
        def prepare(self, model, example):
            return lambda: model(example)

    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 1000)]
    for peer in (Right(), Zeros()):
        trial = training_trial(nn.Sequential(*layers), torch.randn(2, 3, 8, 8), [peer], bench_records.CPU)
        result = trial.prepare("zeros")()
        with nullcontext() if type(peer) is Right else pytest.raises(WrongResult, match="parameter 0 has 0 times"):
            trial.check("zeros", result)


def test_a_peer_says_what_is_missing():
    class Absent(Peer):
        name = "absent"
        packages = ("torch", "a_package_that_is_not_there")

        def prepare(self, model, example):
            raise NotImplementedError

    assert Absent().missing() == "a_package_that_is_not_there is not installed (pip install 'alexkern[peers]')"
    assert all(peer.missing() is None for peer in TORCH_PEERS)


def test_plain_is_a_copy_without_anything_of_ours():
    network = models.alexnet(num_classes=2)
    twin = plain(network)
    assert type(network.features) is alexkern.nn.FusedSequential
    assert type(twin.features) is type(twin.classifier) is nn.Sequential
    assert twin.features[0].weight is not network.features[0].weight
    assert torch.equal(twin.features[0].weight, network.features[0].weight)


def test_convolutions_and_their_relus_are_replaced_where_they_lie():
    network = models.alexnet(num_classes=2)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    seen = []
    fuse_pairs(network, lambda conv: seen.append(conv) or nn.Identity())
    assert seen == convolutions
    left = [type(module) for module in network.features]
    assert nn.ReLU not in left and nn.Conv2d not in left and left.count(nn.MaxPool2d) == 3
    assert nn.ReLU in [type(module) for module in network.classifier]


def test_costly_peers_join_where_it_matters_most():
    gpu = torch.device("cuda")
    targets = Target(gpu, torch.bfloat16), Target(gpu, torch.float16)
    of = options(targets=targets, batches=(1, 2, 128, 1024))
    assert [of.cost_at(batch, targets[0]) for batch in of.batches] == [1, 0, 2, 1]
    assert [of.cost_at(batch, targets[1]) for batch in of.batches] == [0, 0, 1, 0]
    assert options(batches=(3,)).cost_at(3, bench_records.CPU) == 2


class Witness(nn.Module):
    """Tells which backend serves the process while it is called."""

    seen: list[str] = []

    def forward(self, input):
        self.seen.append(alexkern.current_backend())
        return input


def test_on_a_gpu_ours_are_also_measured_by_name_whatever_auto_takes(monkeypatch):
    served = {"cpu": "not on a GPU", "cuda": None, "triton": None, "torch": None}
    monkeypatch.setattr("alexkern.dispatch.missing", lambda name, operator, *_: served[name])
    monkeypatch.setattr(Witness, "seen", [])
    gpu = options(targets=(Target(torch.device("cuda"), torch.bfloat16),))
    runners = [peer for peer in contenders("alexnet", gpu, gpu.target) if peer.ours]
    kinds = ("alexkern", "alexkern frozen")
    assert {peer.name for peer in runners} == {f"{kind}{name}" for kind in kinds for name in ("", " cuda", " triton")}
    network, example = nn.Sequential(nn.Conv2d(3, 4, 3), Witness()).eval(), torch.randn(2, 3, 8, 8)
    for peer in runners:
        call = peer.prepare(network, example)
        Witness.seen.clear()
        call()
        last = peer.name.split()[-1]
        assert Witness.seen == [last if last in served else "auto"]
    operator = bench_dropout.bench_dropout.comparisons
    for name, backend in (("alexkern", "auto"), ("alexkern cuda", "cuda")):
        of = dataclasses.replace(operator, ours=lambda layer, input: alexkern.current_backend())
        assert _expression(of, name)(None, torch.zeros(1)) == backend


def test_peers_take_part_where_they_can():
    """The kinds of device where they do so unasked, those they run on, whether they train, and what they cost."""
    both = ("cpu", "cuda")
    assert [(one.name, one.defaults, one.devices, one.trains, one.cost, one.prepare_s) for one in PEERS] == [
        ("torch", both, None, True, 0, 0),
        ("torch channels_last", both, None, True, 0, 0),
        ("torch.cudnn_convolution_relu", both, "cuda", False, 0, 0),
        ("cudnn-frontend graph", both, "cuda", False, 0, 0),
        ("torchvision", both, None, True, 0, 0),
        ("torch.compile", both, None, True, 1, 10),
        ("torch.compile contiguous", (), None, True, 1, 10),
        ("torch.compile frozen", both, None, False, 1, 10),
        ("torch.compile CUDA graphs", both, "cuda", True, 1, 10),
        ("torch.compile max-autotune", ("cuda",), None, True, 2, 60),
        ("onnxruntime", both, None, False, 1, 5),
        ("openvino", both, "cpu", False, 1, 5),
        ("tensorrt", both, "cuda", False, 2, 40),
    ]
    assert {one.name: one.models for one in PEERS if one.models} == {"torchvision": ("alexnet",)}


class Given(dict):
    """pytest's command line."""

    def getoption(self, name, default):
        return self.get(name, default)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("gpu", [True, False])
def test_a_run_has_what_its_device_asks_for_where_nothing_is_given(gpu, fast, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for name in ("cpu", "cuda"):
        asked = Given() if gpu == (name == "cuda") else Given({"--device": name})
        found, device = Options.read(asked), torch.device(name)
        on_gpu = [(torch.bfloat16, False), (torch.float16, False), (torch.float32, True), (torch.float32, False)]
        on_cpu = [(torch.float32, False), (torch.bfloat16, False)][: 1 + fast]
        assert found.targets == tuple(Target(device, *of) for of in (on_gpu if name == "cuda" else on_cpu))
        assert found.peers == tuple(peer.name for peer in PEERS if name in peer.defaults)
        assert found.batches == ((1, 16, 64) if name == "cpu" else tuple(2**power for power in range(12)))
        assert found.training_batches == ((32,) if name == "cpu" else tuple(2**power for power in range(5, 11)))
        assert (found.models, found.operator_batch) == (("alexnet",), 8 if name == "cpu" else 128)
        assert (found.compile_operators, found.clock, found.seconds, found.record) == (False, "wall", 200, None)


def test_a_run_has_what_is_given():
    given = {
        "--device": "cpu", "--dtypes": ("float16",), "--models": ("alexnet_2012",), "--peers": ("torchvision",),
        "--batches": (3, 5), "--training-batches": (7,), "--operator-batch": 9, "--compile-operators": True,
        "--clock": "cpu", "--record": "there",
    }  # fmt: skip
    target = Target(torch.device("cpu"), torch.float16)
    wanted = Options((target,), ("alexnet_2012",), ("torchvision",), (3, 5), (7,), 9, True, "cpu", 540, Path("there"))
    assert Options.read(Given(given)) == wanted
    assert Options.read(Given(given | {"--seconds": 1.5})) == dataclasses.replace(wanted, seconds=1.5)
    with pytest.raises(pytest.UsageError, match="tf32 is a GPU's"):
        Options.read(Given(given | {"--dtypes": ("float32", "tf32")}))
    assert Options.read(Given(given | {"--device": "cuda", "--dtypes": ("tf32",)})).target.tf32
    assert (wanted.training_batch, options(training_batches=(64, 32)).training_batch) == (7, 32)
    assert sizes("1,65536") == (1, 65536) and comma_separated("ab")("all") == ("a", "b") == comma_separated("abc")(
        "a,b"
    )
