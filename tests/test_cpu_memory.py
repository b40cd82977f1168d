"""Memory that comes back: whoever owns a tensor owns its memory alone, and all of it returns, whatever happened."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alexkern
from alexkern import plan
from alexkern.backends import cpu
from alexkern.backends.cpu import memory
from alexkern.measure.memory import peak_bytes
from alexkern.ops.registry import OPERATORS
from alexkern.plan import Spec
from support import memory_scenarios, processor, routes
from support.cases import cases, channels_last, each
from support.memory_scenarios import MIB, block, use
from support.processor import LAYOUTS

pytestmark = processor.served


@pytest.fixture(scope="module", autouse=True)
def little_to_collect() -> None:
    """What other tests have imported takes half a second to go through, and each test here does so twice."""
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_lost() -> Iterator[None]:
    """Every test begins with nothing kept, and has given all back that it took."""
    native, limit = cpu.native(), memory.limit()
    gc.collect()
    alexkern.release_memory()
    native.memory_keep(256 * MIB)
    lent = use()[1]
    with alexkern.backend("cpu"):
        yield
    gc.collect()
    native.memory_keep(limit)
    assert use()[1] == lent


class Layer:
    """A linear layer whose gradient is 2 MiB, in whole numbers, so that it has one right value."""

    def __init__(self, generator: torch.Generator) -> None:
        def whole(*shape: int) -> Tensor:
            return torch.randint(-3, 4, shape, generator=generator).float()

        self.input, self.weight, self.bias = whole(4, 512), nn.Parameter(whole(1024, 512)), nn.Parameter(whole(1024))

    def output(self) -> Tensor:
        return alexkern.functional.linear_relu_dropout(self.input, self.weight, self.bias, 0.0)

    def gradient(self) -> Tensor:
        """Of the output's sum, by torch."""
        weight = self.weight.detach().requires_grad_()
        return torch.autograd.grad(F.linear(self.input, weight, self.bias).relu().sum(), weight)[0]


@pytest.fixture
def layer(generator: torch.Generator) -> Iterator[Layer]:
    made = Layer(generator)
    yield made
    vars(made).clear()


def test_a_gradient_is_adopted_and_comes_back(layer: Layer) -> None:
    seen: list[int] = []
    layer.weight.register_hook(lambda grad: seen.append(grad.data_ptr()))
    for _ in range(3):
        layer.output().sum().backward()
        assert torch.equal(layer.weight.grad, layer.gradient())
        assert layer.weight.grad.data_ptr() == seen[0] and seen[0] % (2 * MIB) == 0
        assert use()[0] == 0
        layer.weight.grad = None
        assert use()[0] == 2 * MIB
    assert len(set(seen)) == 1
    assert alexkern.release_memory() == 2 * MIB and use()[0] == 0 and alexkern.release_memory() == 0


@pytest.mark.parametrize("where", ["a hook", "a hook behind", "the caller"])
def test_a_gradient_that_somebody_keeps_stays_apart(where: str, layer: Layer) -> None:
    taken: list[Tensor] = []
    if where == "a hook":
        layer.weight.register_hook(taken.append)
    elif where == "a hook behind":
        layer.weight.register_post_accumulate_grad_hook(lambda weight: taken.append(weight.grad))
    layer.output().sum().backward()
    taken = taken or [layer.weight.grad]
    first = layer.gradient()
    layer.weight.grad = None
    layer.input = layer.input + 1
    layer.output().sum().backward()
    assert taken[0].data_ptr() != layer.weight.grad.data_ptr()
    assert torch.equal(taken[0], first) and torch.equal(layer.weight.grad, layer.gradient())


def test_gradients_add_up(layer: Layer) -> None:
    loss = layer.output().sum()
    loss.backward(retain_graph=True)
    address = layer.weight.grad.data_ptr()
    loss.backward(retain_graph=True)
    (apart,) = torch.autograd.grad(loss, layer.weight, retain_graph=True)
    loss.backward()
    assert layer.weight.grad.data_ptr() == address != apart.data_ptr()
    assert torch.equal(layer.weight.grad, 3 * layer.gradient()) and torch.equal(apart, layer.gradient())


def test_module_hooks_see_and_keep_gradients(generator: torch.Generator) -> None:
    pool, seen = alexkern.nn.MaxPool2d(2), []
    pool.register_full_backward_hook(lambda module, inputs, outputs: seen.append(inputs[0]))
    image = torch.randn(2, 8, 256, 256, generator=generator, requires_grad=True)
    for _ in range(2):
        pool(image).sum().backward()
    (wanted,) = torch.autograd.grad(F.max_pool2d(image, 2).sum(), image)
    assert torch.equal(image.grad, 2 * wanted) and all(torch.equal(grad, wanted) for grad in seen)


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: setattr(weight, "grad", torch.zeros_like(weight)),
        lambda weight: setattr(weight.grad, "data", torch.zeros_like(weight)),
        lambda weight: weight.grad.set_(),
        lambda weight: weight.grad.share_memory_(),
    ],
    ids=["grad", "data", "set_", "share_memory_"],
)
def test_another_memory_in_its_place(change: Callable[[Tensor], Any], layer: Layer) -> None:
    layer.output().sum().backward()
    before = use()
    change(layer.weight)
    assert use() == (before[0] + 2 * MIB, before[1] - 2 * MIB)
    if layer.weight.grad.is_shared():
        assert torch.equal(layer.weight.grad, layer.gradient())


def test_views_hold_the_memory() -> None:
    tensor = block(2)
    address, views = tensor.data_ptr(), [tensor.numpy(), tensor[5:], tensor.untyped_storage(), tensor.__dlpack__()]
    del tensor
    while views:
        assert block(2).data_ptr() != address
        views.pop()
        gc.collect()
        alexkern.release_memory() if views else None
    assert block(2).data_ptr() == address


def test_copies_and_growth() -> None:
    tensor = block(2).fill_(7)
    assert torch.equal(copy.deepcopy(tensor), tensor)
    assert tensor.resize_(9).tolist() == [7] * 9
    with pytest.raises(RuntimeError, match="not resizable"):
        tensor.resize_(3 * MIB)


def test_an_exception_in_a_backward_loses_nothing(layer: Layer) -> None:
    def fail(grad: Tensor) -> None:
        raise ValueError("no")

    layer.weight.register_hook(fail)
    lent = use()[1]
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            layer.output().sum().backward()
    gc.collect()
    assert use() == (2 * MIB, lent) and layer.weight.grad is None
    cpu.native().memory_take(2 * MIB, (2 * MIB,), (1,), 1, 8)  # what no tensor was made of
    assert use() == (2 * MIB, lent)


def test_what_is_kept_is_bounded() -> None:
    cpu.native().memory_keep(5 * MIB)
    blocks = [block(2) for _ in range(4)]
    addresses = [tensor.data_ptr() for tensor in blocks]
    while blocks:
        blocks.pop(0)
    assert use()[0] == 4 * MIB
    again = [block(2) for _ in range(2)]
    assert [tensor.data_ptr() for tensor in again] == addresses[:1:-1] and use()[0] == 0
    del again
    large = block(6)
    del large
    assert use()[0] <= 5 * MIB
    cpu.native().memory_keep(0)
    assert use()[0] == 0


def test_the_peak_of_a_call_counts_what_is_ours() -> None:
    before, kept = block(3), block(4)
    del kept  # what others left on the list is not this call's

    def call() -> Tensor:
        first = block(4)
        del first  # and stays on the list
        return torch.cat([block(1), torch.ones(MIB, dtype=torch.uint8)])

    assert 8 * MIB <= peak_bytes(call, before.device) < 8.1 * MIB  # the result's 2 MiB and torch's ones among them


def test_a_block_serves_what_is_half_as_large() -> None:
    tensor = block(18)
    address = tensor.data_ptr()
    del tensor
    assert block(9).data_ptr() == address
    assert block(8.9).data_ptr() != address
    large, small = block(18), block(10)
    del large, small
    assert block(9.5).data_ptr() != address  # the smallest of those that are large enough


def test_a_block_grows_to_what_is_twice_as_large() -> None:
    """Its pages are the first of the new one, and nothing of the old one is left."""
    smaller, tensor = block(11), block(18).fill_(7)
    address = tensor.data_ptr()
    del smaller, tensor
    larger = block(36)
    assert use()[0] == 11 * MIB and use()[1] >= 36 * MIB
    assert bool((larger[: 18 * MIB] == 7).all()) and not bool(larger[18 * MIB :].any())
    assert larger.data_ptr() != address and larger.data_ptr() % (2 * MIB) == 0
    beyond = block(22.1)
    assert use()[0] == 11 * MIB and not bool(beyond.any())


def test_switched_off(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not block(2).untyped_storage().resizable() and block(0.9).untyped_storage().resizable()
    before = use()
    monkeypatch.setattr(memory, "limit", lambda: 0)
    layer.output().sum().backward()
    assert torch.equal(layer.weight.grad, layer.gradient())
    assert layer.weight.grad.untyped_storage().resizable() and use() == before


@pytest.mark.parametrize("count", [2**45, 2**61, 2**62 + 2])
def test_where_there_is_no_memory_the_error_is_torchs(count: int) -> None:
    spec = Spec((count,), (1,), torch.float32)
    messages = []
    for make in (memory.empty, lambda spec: plan.empty(spec, torch.device("cpu"))):
        with pytest.raises(RuntimeError) as caught:
            make(spec)
        messages.append(str(caught.value).splitlines()[0])
    assert messages[0] == messages[1]


def test_threads_never_share() -> None:
    def work(number: int) -> None:
        layer = Layer(torch.Generator().manual_seed(number))
        for turn in range(20):
            held = [block(1 + turn % 3).fill_(number) for _ in range(3)]
            layer.output().sum().backward()
            assert all(bool((tensor == number).all()) for tensor in held)
            assert torch.equal(layer.weight.grad, layer.gradient())
            layer.weight.grad = None
            if turn % 7 == 0:
                alexkern.release_memory()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_output_is_as_torchs_and_written_in_full(
    operator: str, layout: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small, and whatever lies in the memory that comes back."""
    from_dlpack, made = memory.from_dlpack, 0

    def poisoned(capsule: Any) -> Tensor:
        tensor = from_dlpack(capsule)
        tensor.untyped_storage().fill_(255)
        nonlocal made
        made += 1
        return tensor

    monkeypatch.setattr(memory, "LARGE", 1)
    monkeypatch.setattr(memory, "from_dlpack", poisoned)
    for case in cases(operator):
        tensors = case.draw(torch.float32, memory.DEVICE, generator)
        tensors = each(channels_last, tensors) if layout == "channels_last" else tensors
        results = []
        for name in ("cpu", "torch"):
            with alexkern.backend(name):
                output, grads = routes.run("autograd", case, tensors, None)
            results.append((output, *grads))
        for ours, torchs in zip(*results, strict=True):
            assert (ours is None) == (torchs is None)
            if ours is not None:
                torch.testing.assert_close(ours, torchs, check_stride=True, msg=str(case))
    assert made > 0 or operator == "conv2d_relu"  # torch's, of so few channels


def test_modes(generator: torch.Generator) -> None:
    values = torch.randn(512, 1024, generator=generator)
    with torch.inference_mode():
        assert alexkern.functional.dropout(values).is_inference()
    with torch.device("meta"):
        assert alexkern.functional.dropout(values).device == values.device
    pool = torch.compile(lambda x: alexkern.functional.max_pool2d(x, 2) + 1, backend="aot_eager")
    image = values.view(1, 1, 512, 1024).repeat(1, 4, 1, 1)
    assert torch.equal(pool(image), F.max_pool2d(image, 2) + 1)


ALEXNET = pytest.param(("alexnet",), marks=pytest.mark.full)


@pytest.mark.parametrize("names", [*memory_scenarios.TOGETHER, ALEXNET], ids=" ".join)
def test_a_process_of_its_own(names: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALEXKERN_BACKEND": "cpu", "GLOO_SOCKET_IFNAME": "lo"}
    environment.pop("ALEXKERN_CPU_MEMORY", None)
    # From 3.12 on Python warns of a fork beside threads, which is what one of them is about.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", memory_scenarios.__file__, *names]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout, done.stderr) == (0, "as it should be\n", "")


@pytest.mark.parametrize("sanitizer", ["address,undefined", pytest.param("thread", marks=pytest.mark.full)])
def test_no_stray_access(sanitizer: str, tmp_path: Path) -> None:
    sources = processor.CSRC / "memory.cpp", Path(memory_scenarios.__file__).with_name("memory_list.cpp")
    assert processor.sanitized(sanitizer, tmp_path / "memory", "-pthread", *sources) == "all clean\n"
