"""The dispatcher's route: torch.compile, torch.export, make_fx, fake and meta tensors, FX, opcheck."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.testing import EagerAndRecordGraphs
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import BaseTorchFunctionMode

import alexkern
from alexkern import functional
from support.backends import DEVICE, serving
from support.cases import SUITES, Case
from support.networks import small_alexnet

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
EVERY_OPERATOR = [suite.case(suite.compile) for suite in SUITES.values()]
BACKENDS = [
    pytest.param(case, backend, id=f"{case.operator}-{backend}")
    for case in EVERY_OPERATOR
    for backend in serving(case.operator)
]
OPERATORS = pytest.mark.parametrize("case", EVERY_OPERATOR, ids=lambda case: case.operator)


def targets(graphs: EagerAndRecordGraphs) -> list[str]:
    """Of all that torch.compile captured, the operators."""
    nodes = [node for graph in graphs.graphs for node in graph.graph.nodes]
    return [str(node.target) for node in nodes if node.op == "call_function"]


def leaves_of(case: Case, generator: torch.Generator) -> list[Tensor]:
    return [tensor.requires_grad_() for tensor in case.draw(torch.float32, DEVICE, generator) if tensor is not None]


@pytest.mark.parametrize(("case", "backend"), BACKENDS)
@pytest.mark.parametrize("compiler", [pytest.param("eager", marks=pytest.mark.full), "aot_eager"])
def test_compiles_whole(case: Case, backend: str, compiler: str, generator: torch.Generator) -> None:
    """One graph, forward and backward, with the results of eager mode."""
    leaves = leaves_of(case, generator)
    compiled = torch.compile(case.call, backend=compiler, fullgraph=True)
    results = []
    with alexkern.backend(backend):
        for function in (case.call, compiled):
            torch.manual_seed(0)
            output = function(*leaves)
            results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    if "dropout" in case.operator and backend == "torch":
        # Plain aten is emitted, whose zeros are torch's: the same distribution, other elements.
        output, gradient = results[1][0], results[1][1]
        assert 0 < int((output == 0).sum()) < output.numel() and gradient.shape == leaves[0].shape
        return
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.operator, marks=() if case.operator in ("conv2d_relu", "dropout") else pytest.mark.full
        )
        for case in EVERY_OPERATOR
    ],
)
def test_compiles_transforms_whole(case: Case, generator: torch.Generator) -> None:
    """A tangent of per-sample gradients."""
    case = Case(case.operator, "small", *SUITES[case.operator].small)
    input, *others = (leaf.detach() for leaf in leaves_of(case, generator))

    def gradient(input: Tensor) -> Tensor:
        return torch.func.grad(lambda x: case.call(x, *others).square().sum())(input)

    def transformed(samples: Tensor) -> Tensor:
        return torch.func.jvp(torch.func.vmap(gradient, randomness="different"), (samples,), (samples,))[1]

    samples = torch.stack([input, -input])
    with alexkern.backend(serving(case.operator)[0]):
        ours = torch.compile(transformed, backend="eager", fullgraph=True)(samples)
    # A compiled dropout drops elements of torch's own choice.
    assert ours.shape == samples.shape if "dropout" in case.operator else torch.allclose(ours, transformed(samples))


@OPERATORS
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("training", [False, True])
def test_plain_aten_is_emitted_but_for_poolings_in_training(
    case: Case, backend: str, training: bool, generator: torch.Generator
) -> None:
    """Whoever serves them: inductor may order its own backward of them wrongly."""
    if DEVICE.type != "cpu" and (training or backend == "auto"):
        pytest.skip("a GPU is here")
    graphs = EagerAndRecordGraphs()
    with alexkern.backend(backend), torch.set_grad_enabled(training):
        torch.compile(case.call, backend=graphs, fullgraph=True)(*leaves_of(case, generator))
    assert len(graphs.graphs) == 1 and targets(graphs)
    ours = any("alexkern" in target for target in targets(graphs))
    assert ours == (training and case.operator.endswith("max_pool2d")), targets(graphs)


@pytest.mark.parametrize(("case", "backend"), [param for param in BACKENDS if param.values[1] != "torch"])
def test_other_backends_emit_their_operator(case: Case, backend: str, generator: torch.Generator) -> None:
    graphs = EagerAndRecordGraphs()
    with alexkern.backend(backend):
        torch.compile(case.call, backend=graphs, fullgraph=True)(*leaves_of(case, generator))
    assert any(f"alexkern.{case.operator}" in target for target in targets(graphs))


def test_changing_the_backend_recompiles() -> None:
    graphs = EagerAndRecordGraphs()
    compiled = torch.compile(lambda x: functional.max_pool2d(x, 3, 2), backend=graphs, fullgraph=True)
    image = torch.randn(1, 2, 7, 7)
    with alexkern.backend("torch"):
        compiled(image)
        compiled(image)
    assert len(graphs.graphs) == 1
    with alexkern.backend("auto"):
        compiled(image)
    assert len(graphs.graphs) == 2


def only_max_pool2d_is_ours(monkeypatch: pytest.MonkeyPatch) -> str:
    """As where "auto" takes a kernel for the pooling alone; its backend."""
    backend = next(name for name in serving("max_pool2d") if name != "cpu")  # which "auto" leaves to inductor

    def mixed(setting: str, operator: str, *_: object) -> str:
        return backend if operator == "max_pool2d" else "torch"

    mixed._dynamo_marked_constant = True  # type: ignore[attr-defined]
    monkeypatch.setattr(alexkern.dispatch, "serving", mixed)
    return backend


def ours_in_a_fused_network() -> list[str]:
    graphs = EagerAndRecordGraphs()
    model = alexkern.fuse(nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.MaxPool2d(2))).eval()
    torch.compile(model, backend=graphs, fullgraph=True)(torch.randn(1, 2, 4, 5))
    return [target for target in targets(graphs) if "alexkern" in target]


def test_one_operator_of_ours_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = only_max_pool2d_is_ours(monkeypatch)
    with torch.device("cpu"):
        assert ours_in_a_fused_network() == ([] if backend == "torch" else ["alexkern.max_pool2d"])


def test_who_watches_sees_plain_children_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    only_max_pool2d_is_ours(monkeypatch)
    with BaseTorchFunctionMode():
        assert ours_in_a_fused_network() == []
    torch._dynamo.reset()
    monkeypatch.setattr(nn.MaxPool2d, "forward", lambda self, input: input)
    assert ours_in_a_fused_network() == []


def test_dynamic_batch_compiles_once() -> None:
    graphs = EagerAndRecordGraphs()
    model = alexkern.fuse(small_alexnet()).eval()
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch in (2, 3, 5):
            image = torch.randn(batch, 3, 63, 63)
            torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-5)
    assert len(graphs.graphs) == 1


@pytest.mark.full  # the quick half compiles the gradients of smaller networks: test_compiler.py
def test_inductor_forward_and_backward(generator: torch.Generator) -> None:
    model = alexkern.fuse(small_alexnet()).eval()
    compiled = torch.compile(model, fullgraph=True)
    image = torch.randn(2, 3, 63, 63, generator=generator)
    gradients = []
    for function in (model, compiled):
        model.zero_grad()
        function(image).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def interpreted(backend: str) -> bool:
    return backend == "triton" and DEVICE.type == "cpu"


@OPERATORS
@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.full)])
def test_opcheck(case: Case, slow: bool, generator: torch.Generator) -> None:
    """All of torch.library.opcheck's tests, on the arguments that the public function passes, forward and backward.

    The long half is for Triton's interpreter, which takes two minutes.
    """
    for backend in (backend for backend in serving(case.operator) if interpreted(backend) == slow):
        for channels_last in (False, True):
            leaves = leaves_of(case, generator)
            if channels_last and leaves[0].dim() == 4:
                leaves[0] = leaves[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
            calls = recorded_calls(case, leaves, backend)
            assert [name for name, _ in calls] == [case.operator, f"{case.operator}_backward"]
            for name, arguments in calls:
                operator = getattr(torch.ops.alexkern, name).default
                torch.library.opcheck(operator, arguments)


def recorded_calls(case: Case, leaves: list[Tensor], backend: str) -> list[tuple[str, tuple]]:
    """The dispatcher operators that a forward and a backward go through, with their arguments."""
    from support.routes import Transparent

    calls: list[tuple[str, tuple]] = []

    class Recording(Transparent):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func.namespace == "alexkern":
                # A backward that is differentiated runs the definition: test_a_traced_backward_has_a_derivative.
                wants = not func._schema.name.endswith("_backward")
                copies = tuple(
                    value.detach().clone().requires_grad_(wants and value.requires_grad)
                    if isinstance(value, Tensor)
                    else value
                    for value in args
                )
                calls.append((func._schema.name.split("::")[1], copies))
            return func(*args, **(kwargs or {}))

    with alexkern.backend(backend), Recording():
        case.call(*leaves).sum().backward()
    return calls


@OPERATORS
def test_fake_and_meta_tensors_have_the_real_layout(case: Case, generator: torch.Generator) -> None:
    tensors = case.draw(torch.float32, torch.device("cpu"), generator)
    for channels_last in (False, True):
        if channels_last and tensors[0].dim() == 4:  # type: ignore[union-attr]
            tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
        real = case.call(*tensors)
        meta = case.call(*(None if tensor is None else tensor.to("meta") for tensor in tensors))
        assert meta.device.type == "meta" and meta.shape == real.shape and meta.dtype == real.dtype
        assert meta.stride() == real.stride()
        with FakeTensorMode() as mode:
            fake = case.call(*(None if tensor is None else mode.from_tensor(tensor) for tensor in tensors))
        assert fake.shape == real.shape and fake.stride() == real.stride()


@OPERATORS
def test_make_fx_records_the_operator(case: Case, generator: torch.Generator) -> None:
    leaves = [tensor.detach() for tensor in leaves_of(case, generator)]
    graph = make_fx(case.call, tracing_mode="fake")(*leaves)
    assert any(f"alexkern.{case.operator}" in str(node.target) for node in graph.graph.nodes)
    torch.manual_seed(0)
    wanted = case.call(*leaves)
    torch.manual_seed(0)
    assert torch.equal(graph(*leaves), wanted)


@OPERATORS
def test_fake_tensors_have_second_derivatives(case: Case, generator: torch.Generator) -> None:
    """And leave nothing behind that a real call would meet."""
    case = Case(case.operator, "small", *SUITES[case.operator].small)
    leaves = leaves_of(case, generator)

    def second(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(case.call(*leaves).square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([one.square().sum() for one in first]).sum(), leaves)

    mode = FakeTensorMode()
    imitations = [mode.from_tensor(leaf) for leaf in leaves]
    with mode:
        fakes = second(imitations)
    for fake, real in zip(fakes, second(leaves), strict=True):
        assert fake.shape == real.shape and fake.dtype == real.dtype


@OPERATORS
def test_a_traced_backward_has_a_derivative(case: Case, generator: torch.Generator) -> None:
    """A graph that was traced forward and backward knows no autograd of ours but the dispatcher's."""
    case = Case(case.operator, "small", *SUITES[case.operator].small)
    leaves = leaves_of(case, generator)

    def gradients(*leaves: Tensor, **options: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(case.call(*leaves).square().sum(), leaves, **options)

    with alexkern.backend(serving(case.operator)[0]):
        graph = make_fx(gradients)(*leaves)
    assert any(f"alexkern.{case.operator}_backward" in str(node.target) for node in graph.graph.nodes)
    results = []
    for first in (lambda: graph(*leaves), lambda: gradients(*leaves, create_graph=True)):
        torch.manual_seed(0)
        loss = torch.stack([one.pow(3).sum() for one in first()]).sum()
        results.append(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_fx_tracing_keeps_functions_nodes_and_gradients() -> None:
    """Under FX a FusedSequential shows its children by name; a call of our function is one node; gradients survive."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = alexkern.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)))

        def forward(self, image: Tensor) -> Tensor:
            return functional.max_pool2d(self.features(image), 2)

    model = Network()
    traced = fx.symbolic_trace(model)
    names = [node.name for node in traced.graph.nodes]
    assert names == ["image", "features_0", "features_1", "features_2", "max_pool2d", "output"]
    image = torch.randn(2, 3, 12, 12)
    assert torch.equal(traced(image), model(image))
    traced(image).sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())


@pytest.mark.parametrize("strict", [False, True])
def test_export_needs_no_alexkern(strict: bool) -> None:
    model = alexkern.fuse(small_alexnet()).eval()
    image = torch.randn(2, 3, 63, 63)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (image,), dynamic_shapes=({0: batch},), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert any("conv2d" in target for target in targets) and not any("alexkern" in target for target in targets)
    for count in (2, 5):
        more = torch.randn(count, 3, 63, 63)
        torch.testing.assert_close(program.module()(more), model(more), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(program.state_dict), dict(model.state_dict()), rtol=0, atol=0)


def test_subclasses_reach_torch_function() -> None:
    class Logged(Tensor):
        calls: list[object] = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            cls.calls.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    image = torch.randn(1, 2, 5, 5).as_subclass(Logged)
    output = functional.max_pool2d(image, 3, 2)
    assert functional.max_pool2d in Logged.calls
    assert torch.equal(output.as_subclass(Tensor), functional.max_pool2d(image.as_subclass(Tensor), 3, 2))
