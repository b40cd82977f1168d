"""graph(): what a CPU gets, what cannot be captured and says so, and on a GPU the model's own results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import alexkern
from alexkern.graph import Graphed, check_like
from alexkern.training import Settings
from alexkern.training.step import Step
from alexkern.training.world import World
from support.networks import small_alexnet
from support.tiny import tiny


def test_a_cpu_gets_the_model_and_a_warning() -> None:
    model, example = small_alexnet().eval(), torch.randn(2, 3, 63, 63)
    with pytest.warns(UserWarning, match="alexkern.graph: a CUDA graph needs a GPU") as caught:
        assert alexkern.graph(model, example) is model
    assert len(caught) == 1 and caught[0].filename == __file__


def hooked() -> nn.Module:
    model = small_alexnet().eval()
    model[0][1].register_forward_hook(lambda *arguments: None)
    return model


@pytest.mark.parametrize(
    "model, example, words",
    [
        (small_alexnet(), torch.zeros(1), "model must be in eval mode .* got one in training mode"),
        (
            small_alexnet().eval(),
            torch.zeros(1, requires_grad=True),
            "example must be a tensor without: a graph infers",
        ),
        (hooked(), torch.zeros(1), "model must be without forward hooks.* got hooks on '0.1'"),
        (
            small_alexnet().eval().to("meta"),
            torch.zeros(1),
            "model and example must be on one device, got 0.0.weight on meta, example on cpu",
        ),
    ],
)
def test_what_is_refused(model: nn.Module, example: Tensor, words: str) -> None:
    with pytest.raises(alexkern.ArgumentError, match=f"^alexkern.graph: {words}"):
        alexkern.graph(model, example)


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="^alexkern.graph: model must be a torch.nn.Module, got function"):
        alexkern.graph(lambda x: x, torch.zeros(1))
    with pytest.raises(TypeError, match="^alexkern.graph: example must be a Tensor, got list"):
        alexkern.graph(small_alexnet().eval(), [1])


@pytest.mark.parametrize(
    "value, words",
    [
        (torch.zeros(3, 2), r"input's shape must be the example's, \(2, 2\), got \(3, 2\)"),
        (torch.zeros(2, 2, dtype=torch.int64), "input's dtype must be the example's, torch.float32, got torch.int64"),
        (torch.zeros(2, 2, device="meta"), "input's device must be the example's, cpu, got meta"),
    ],
)
def test_inputs_unlike_the_example(value: Tensor, words: str) -> None:
    with pytest.raises(alexkern.ArgumentError, match=f"^alexkern.graph: {words}"):
        check_like("graph", "input", value, torch.zeros(2, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_model_on_a_gpu(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = alexkern.fuse(small_alexnet()).eval().to("cuda", dtype)
    example, other = torch.randn(2, 2, 3, 63, 63, device="cuda", dtype=dtype).unbind()
    graphed = alexkern.graph(model, example)
    with torch.no_grad():
        first, second = graphed(example), graphed(other)
        assert torch.equal(first, model(example)) and torch.equal(second, model(other))
        for parameter in model.parameters():
            parameter.mul_(0.5)
        assert torch.equal(graphed(other), model(other)) and not torch.equal(graphed(other), second)
    with pytest.raises(alexkern.ArgumentError, match="input's shape"):
        graphed(example[:1])


@pytest.mark.gpu
def test_what_reads_the_gpu_cannot_be_captured() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.sum().item()

    with pytest.raises(RuntimeError, match="alexkern.graph: Reads cannot be captured: "):
        alexkern.graph(Reads().eval(), torch.ones(2, device="cuda"))
    torch.cuda.synchronize()


@pytest.mark.gpu
def test_the_trainers_step_is_the_same_captured_on_a_gpu() -> None:
    world = World(0, 1, torch.device("cuda"))
    settings = Settings(size=63, resize=63, batch_size=4, dropout=0.0)
    torch.manual_seed(1)
    models = [tiny(num_classes=3, dropout=0.0).cuda() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    steps = [Step(models[0], settings, world), Step(models[1], settings, world, graphed=True)]
    images, labels = torch.randn(5, 4, 3, 63, 63, device="cuda"), torch.randint(3, (5, 4), device="cuda")
    for step in steps:
        run = step.new_gradients
        if step.graphed:
            run = Graphed(step.new_gradients, (images[0], labels[0]), "the training step").replay
        for pixels, wanted in zip(images, labels, strict=True):
            run(pixels, wanted)
            step.update()
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
