"""graph(): what a CPU gets, what cannot be captured and says so, and on a GPU the model's own results."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import alexkern
from alexkern.data import Batch
from alexkern.graph import Graphed, GraphedModel, check_like
from alexkern.training import Settings
from alexkern.training.step import Step
from alexkern.training.world import World
from support import fake_cuda
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


class Counted(nn.Sequential):
    """Two results, and how often it ran."""

    calls = 0

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        assert not torch.is_grad_enabled()
        return {"first": super().forward(input), "second": input + 1}


def test_what_is_captured_is_replayed_with_other_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for torch.cuda that replays what it has recorded."""
    log = fake_cuda.install(monkeypatch)
    model = Counted(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    example, other = torch.randn(2, 5, 3)
    graphed = GraphedModel(model, example)
    around = ["side waits for current", "on side", "off side", "current waits for side", "capture", "captured"]
    assert log == around and model.calls == 3 + 1
    assert repr(graphed) == "GraphedModel(Counted, (5, 3), torch.float32)"
    first, second = graphed(example), graphed(other)
    assert log == [*around, "replay", "replay"] and model.calls == 4
    for found, input in ((first, example), (second, other)):
        with torch.no_grad():
            assert all(torch.equal(found[name], one) for name, one in model(input).items())
    with torch.no_grad():
        model[0].weight.mul_(0.5)
        assert torch.equal(graphed(other)["first"], model(other)["first"])
    with pytest.raises(alexkern.ArgumentError, match="^alexkern.graph: input's shape must be the example's"):
        graphed(example[:1])


def test_what_cannot_be_captured_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch)
    with pytest.raises(RuntimeError) as caught:
        Graphed(lambda x: x * x.sum().item(), [torch.ones(2)], "it")
    assert (
        str(caught.value) == "alexkern.graph: it cannot be captured: operation not permitted when stream is capturing"
    )


def test_the_trainers_step_is_captured_for_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether others come first, in between or last, the weights are those of a step that is not captured."""
    fake_cuda.install(monkeypatch)
    settings = Settings(size=63, resize=63, batch_size=2, dropout=0.0, learning_rate=0.1)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(256, (2, 63, 63, 3), generator=generator, dtype=torch.uint8)
    whole = Batch(pixels, torch.tensor([[63, 63]] * 2), torch.tensor([0, 2]), [])
    part = Batch(pixels[:1], whole.sizes[:1], whole.labels[:1], [])
    steps = []
    for graphed in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(3, 2, 9, 9), nn.ReLU(), nn.Flatten(), nn.Linear(98, 3))
        steps.append(Step(model, settings, World(0, 1, torch.device("cpu")), graphed=graphed))
    for number, batch in enumerate((part, whole, whole, part, whole)):
        for step in steps:
            step(batch, number + 1, 2 * number, 0.05)
        assert (steps[1].captured is not None) == (number > 0) and steps[0].captured is None
    assert torch.equal(steps[0].sums, steps[1].sums) and steps[0].sums[2] == 8
    torch.testing.assert_close(*(step.model.state_dict() for step in steps))


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
    torch.testing.assert_close(*(model.state_dict() for model in models), rtol=1e-4, atol=1e-6)
