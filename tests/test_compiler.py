"""torch.compile(model, backend="alexkern"): networks of any style, against torch's eager mode."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

import alexkern
from alexkern import compiler
from alexkern.accuracy import assert_accurate
from alexkern.ops.registry import OPERATORS
from support.backends import DEVICE
from support.drawn_networks import Drawn
from support.networks import small_alexnet

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
EAGER = {"rest": "eager"}
BY_RUN = {layers: name for name, operator in OPERATORS.items() for layers in operator.layers}
CONV, COMBINED = BY_RUN[nn.Conv2d, nn.ReLU], BY_RUN[nn.Conv2d, nn.ReLU, nn.MaxPool2d]
POOL, DROPOUT, NORM = (BY_RUN[(layer,)] for layer in (nn.MaxPool2d, nn.Dropout, nn.LocalResponseNorm))
LINEAR = BY_RUN[nn.Linear, nn.ReLU]


class Watched:
    """The backend, and the calls in the graphs that it made."""

    def __init__(self, **options: str) -> None:
        self.options, self.frame_count = options or EAGER, 0
        self.calls: list[str] = []
        self.ours: list[str] = []

    def __call__(self, module: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compiled = compiler.compile_graph(module, inputs, options=self.options)
        self.frame_count += 1
        for node in module.graph.nodes:
            if node.op in ("call_function", "call_method"):
                name = getattr(node.target, "__name__", str(node.target))
                self.calls.append(name)
                self.ours += [name] if node.target is getattr(alexkern.functional, name, None) else []
        return compiled


def results(model: nn.Module, function: Callable[..., Any], image: Tensor) -> list[tuple[Tensor | None, ...]]:
    """Outputs, gradients of the image and of parameters, and buffers afterwards."""
    image = image.clone().requires_grad_()
    outputs = function(image)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    leaves = [image, *model.parameters()]
    gradients = torch.autograd.grad(sum(out.square().mean() for out in outputs), leaves, allow_unused=True)
    return [outputs, gradients, tuple(model.buffers())]


def flat(found: list[tuple[Tensor | None, ...]]) -> list[Tensor | None]:
    return [value for values in found for value in values]


def assert_like_eager(model: nn.Module, image: Tensor, backend: Any, *, others_near: int = 0, **how: Any) -> None:
    """others_near: how many images that differ in their last bits show how far off eager mode itself may be."""
    plain, compiled = copy.deepcopy(model), copy.deepcopy(model)
    wanted = results(plain, plain, image)
    found = results(compiled, torch.compile(compiled, backend=backend, **how), image)
    exact = copy.deepcopy(model).double()
    truth = flat(results(exact, exact, image.double()))
    # A batch norm of two rows divides by what little is left of them: eager mode itself is off by more then.
    generator, others = torch.Generator().manual_seed(0), []
    for _ in range(others_near):
        other, last_bits = copy.deepcopy(model), torch.randn(image.shape, generator=generator) * 2**-23
        others.append(flat(results(other, other, image * (1 + last_bits))))
    for ours, theirs, right, *near in zip(flat(found), flat(wanted), truth, *others, strict=True):
        own = 0.0 if right is None else max(float((one - right).detach().abs().max()) for one in (theirs, *near))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 + 2 * own)
    assert [out.stride() for out in found[0]] == [out.stride() for out in wanted[0]]  # type: ignore[union-attr]


def drawn(seed: int, rest: str, modes: tuple[bool, ...] = (True, False)) -> None:
    model = Drawn(seed)
    for mode in modes:
        try:
            assert_like_eager(model.train(mode), model.image(), Watched(rest=rest), others_near=4, fullgraph=True)
        except Exception as error:
            raise AssertionError(f"seed {seed}, training {mode}: {model.written}") from error
        torch._dynamo.reset()


@pytest.mark.parametrize("first", range(0, 40, 8))
def test_drawn_networks(first: int) -> None:
    """Those of the first five seeds are trained, of the next five are evaluated, and so on: each style either way."""
    for seed in range(first, first + 8):
        drawn(seed, "eager", (seed // 5 % 2 == 0,))


@pytest.mark.full
@pytest.mark.parametrize("first", range(0, 400, 40))
def test_more_drawn_networks(first: int) -> None:
    for seed in range(first, first + 40):
        drawn(seed, "eager")


@pytest.mark.parametrize("mode", [True, False])
def test_drawn_networks_fused(mode: bool) -> None:
    for seed in range(40):
        model = Drawn(seed).train(mode)
        fused, image = alexkern.fuse(copy.deepcopy(model)), model.image()
        torch.testing.assert_close(results(fused, fused, image), results(model, model, image), rtol=1e-3, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(15))
def test_drawn_networks_with_the_rest_by_inductor(seed: int) -> None:
    drawn(seed, "inductor")


class Net(nn.Module):
    """A convolution and a linear layer, and a forward to be given."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.other, self.norm = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.pool, self.lrn = nn.ReLU(True), nn.MaxPool2d(2), nn.LocalResponseNorm(3, 0.1)
        self.linear, self.rows, self.given = nn.Linear(7, 5), nn.BatchNorm1d(5), forward
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]
        nn.init.normal_(self.norm.bias)

    def forward(self, image: Tensor) -> Any:
        return self.given(self, image)


def relu_by(function: Callable[[Tensor], Any]) -> Callable[[Any, Tensor], Tensor]:
    """In place, and nobody takes the result."""

    def conv_pool(net: Any, image: Tensor) -> Tensor:
        value = net.conv(image)
        function(value)
        return F.max_pool2d(value, 2)

    return conv_pool


def another_reader(net: Any, image: Tensor) -> Any:
    value = net.conv(image)
    return F.relu(value), value.sum()


def a_view_of_it(net: Any, image: Tensor) -> Tensor:
    value = net.conv(image)
    flat = value.view(image.shape[0], -1)
    net.relu(value)
    return flat * 2


def without_gradient_between(net: Any, image: Tensor) -> Tensor:
    with torch.no_grad():
        value = net.conv(image)
    return F.relu(value) * net.linear.weight.sum()


def two_at_once(net: Any, image: Tensor) -> Tensor:
    one, other = net.conv(image), net.other(image)
    return one.relu() + other.relu()


def norm_folds(net: Any, image: Tensor) -> Tensor:
    return net.pool(net.relu(net.norm(net.conv(image))))


def norm_of_a_sequence(net: Any, image: Tensor) -> Tensor:
    rows = image.flatten(0, 1)[:, :5].repeat(9, 1, 1)  # of which not the features are normalised, and there are as many
    return F.relu(net.rows(net.linear(rows)))


def norm_of_one_image(net: Any, image: Tensor) -> Tensor:
    value = net.conv(torch.cat([image[0, :, :6]] * 9, 2))  # of 4 channels and 4 rows, and the rows are normalised
    return F.relu(F.batch_norm(value, net.norm.running_mean, net.norm.running_var))


def computed_setting(net: Any, image: Tensor) -> Tensor:
    return F.dropout(F.relu(net.linear(image)), p=float(image.shape[0]) * 0, training=True)


# A forward, the operators that it becomes in training and in evaluation.
FORWARDS: dict[str, tuple[Callable[[Any, Tensor], Any], list[str], list[str]]] = {
    "in place, a module": (relu_by(nn.ReLU(True)), [COMBINED], [COMBINED]),
    "in place, F.relu_": (relu_by(F.relu_), [COMBINED], [COMBINED]),
    "in place, torch.relu_": (relu_by(torch.relu_), [COMBINED], [COMBINED]),
    "in place, a method": (relu_by(Tensor.relu_), [COMBINED], [COMBINED]),
    "another reader": (another_reader, [], []),
    "a view of it": (a_view_of_it, [], []),
    "without gradient": (without_gradient_between, [], []),
    "norm": (norm_folds, [POOL], [COMBINED]),
    "pool relu": (lambda net, x: net.pool(net.conv(x)).relu(), [COMBINED], [COMBINED]),
    "norm pool relu": (lambda net, x: torch.relu(net.pool(net.norm(net.conv(x)))), [POOL], [COMBINED]),
    "linear norm relu": (lambda net, x: F.relu(net.rows(net.linear(x.flatten(0, 2)))), [], [LINEAR]),
    "norm of a sequence": (norm_of_a_sequence, [], []),
    "norm of one image": (norm_of_one_image, [], []),
    "relu norm pool": (lambda net, x: net.pool(net.norm(net.relu(net.conv(x)))), [CONV, POOL], [CONV, POOL]),
    "relu lrn pool": (
        lambda net, x: net.pool(net.lrn(net.conv(x).relu_())),
        [CONV, NORM, POOL],
        [CONV, NORM, POOL],
    ),
    "dropout": (
        lambda net, x: F.relu(net.linear(F.dropout(x, 0.0, net.training))),
        [DROPOUT, LINEAR],
        [DROPOUT, LINEAR],
    ),
    "linear": (lambda net, x: net.linear(x).relu(), [LINEAR], [LINEAR]),
    "two at once": (two_at_once, [CONV, CONV], [CONV, CONV]),
    "computed": (computed_setting, [LINEAR], [LINEAR]),
    "indices": (lambda net, x: F.max_pool2d(net.conv(x), 2, return_indices=True)[0], [], []),
    "integers": (lambda net, x: F.max_pool2d(x.long(), 2) + x.sum(), [], []),
    "reflect": (lambda net, x: F.relu(net.conv(F.pad(x, (1, 1, 1, 1), "reflect"))), [CONV], [CONV]),
    "no layers": (lambda net, x: x * 2, [], []),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_what_is_fused_in_a_forward(name: str) -> None:
    forward, trained, evaluated = FORWARDS[name]
    image = torch.randn(2, 3, 9, 7)
    for mode, wanted in ((True, trained), (False, evaluated)):
        watched = Watched()
        assert_like_eager(Net(forward).train(mode), image, watched, fullgraph=True)
        assert watched.ours == wanted, (mode, watched.calls)
        torch._dynamo.reset()


def test_what_torch_serves_is_left_to_inductor() -> None:
    image = torch.randn(2, 3, 9, 7)
    with alexkern.backend("torch"):
        for rest, wanted in (("eager", [CONV, NORM]), ("inductor", [])):
            watched = Watched(rest=rest)
            assert_like_eager(Net(lambda net, x: net.lrn(net.conv(x).relu())), image, watched)
            assert watched.ours == wanted
            torch._dynamo.reset()


def test_what_a_call_does_not_say_is_torchs_default() -> None:
    compared = 0
    for function, reader in (*compiler.OTHERS.items(), *compiler.spellings().items()):
        if inspect.isfunction(function):
            torchs, ours = (inspect.signature(one).parameters for one in (function, reader))
            for name in torchs.keys() & ours.keys():
                assert ours[name].default == torchs[name].default, (function, name)
                compared += 1
    assert compared > 15


def test_what_is_written_in_between_is_seen_in_order() -> None:
    def written(net: Any, image: Tensor) -> Tensor:
        image = image * 2
        value = net.conv(image)
        image.mul_(3)
        return F.relu(value) + image.sum()

    model, image, watched = Net(written), torch.randn(2, 3, 9, 7), Watched()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=watched)(image), model(image))
    assert watched.ours == []


@pytest.mark.parametrize("write", [lambda value: value.add_(1), lambda value: value[0].mul_(2), F.relu_])
def test_what_is_written_into_a_result_is_seen(write: Callable[[Tensor], Any]) -> None:
    def written(net: Any, image: Tensor) -> Tensor:
        value = net.pool(F.relu(net.conv(image)))
        write(value)
        return net.pool(F.relu(F.conv2d(value, net.conv.weight[:, :1].expand(4, 4, 3, 3))))

    model, image, watched = Net(written), torch.randn(4, 3, 19, 17), Watched()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=watched)(image), model(image))
    assert watched.ours == [COMBINED, COMBINED] and "to_channels_last" in watched.calls


def test_images_stay_channels_last_between_convolutions() -> None:
    watched, model = Watched(), small_alexnet()[0].eval()
    image = torch.randn(2, 3, 63, 63)
    assert_like_eager(model, image, watched)
    assert (watched.calls.count("to_channels_last"), watched.calls.count("contiguous")) == (1, 1)
    watched = Watched()
    assert_like_eager(model, image.contiguous(memory_format=torch.channels_last), watched)
    assert not {"to_channels_last", "contiguous"} & {*watched.calls}
    assert_like_eager(model.to(memory_format=torch.channels_last), image, Watched())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    watched, model, image = Watched(), Net(norm_folds).eval(), torch.randn(2, 3, 9, 9)
    with torch.autocast("cpu", dtype), torch.no_grad():
        found, wanted = torch.compile(model, backend=watched)(image), model(image)
    assert found.dtype == wanted.dtype == dtype and watched.ours == [COMBINED]
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(image.double())
    assert_accurate(found, exact, wanted)


def test_gradients_under_autocast_are_eager_modes() -> None:
    model, image = Net(norm_folds), torch.randn(2, 3, 9, 9)
    for mode in (True, False):
        found = []
        for network in (model.train(mode), torch.compile(copy.deepcopy(model), backend=Watched())):
            with torch.autocast("cpu", torch.bfloat16):
                output = network(image)
            parameters = [parameter for name, parameter in network.named_parameters() if "conv." in name]
            found.append([output, *torch.autograd.grad(output.float().square().sum(), parameters)])
        torch.testing.assert_close(*found, rtol=4e-2, atol=4e-1)
        torch._dynamo.reset()


def in_a_loop(net: Any, image: Tensor) -> Tensor:
    for _ in range(2):
        torch._dynamo.graph_break()  # of which dynamo skips the whole frame
        image = F.relu(net.conv(image)).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    return image


def too_many_kinds(net: Any, image: Tensor) -> Tensor:
    return F.relu(net.conv(image)) * net.factor


@pytest.mark.parametrize("forward", [in_a_loop, too_many_kinds])
def test_what_dynamo_does_not_capture_runs_as_torch_runs_it(
    forward: Callable[[Any, Tensor], Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    """With torch's own message once, as for any backend."""
    said, image = [], torch.randn(2, 3, 9, 9)
    for backend in ("eager", "alexkern"):
        model = Net(forward).eval()
        compiled = torch.compile(model, backend=backend)
        caplog.clear()
        with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for factor in range(torch._dynamo.config.recompile_limit + 3):
                model.factor = factor + 0.5
                torch.testing.assert_close(compiled(image), model(image))
        records = [record.msg for record in caplog.records if record.levelname == "WARNING"]
        said.append((records, [str(warning.message) for warning in caught]))
        torch._dynamo.reset()
    assert said[0] == said[1] and len(said[0][0]) <= 1


def test_sizes_that_change_compile_as_often_as_torch_does() -> None:
    model = small_alexnet().eval()
    counts = []
    for backend in (Watched(), CompileCounter()):
        compiled = torch.compile(model, backend=backend)
        for batch in (2, 3, 5, 7):
            image = torch.randn(batch, 3, 63, 63)
            torch.testing.assert_close(compiled(image), model(image), rtol=1e-4, atol=1e-5)
        counts.append(backend.frame_count)
        torch._dynamo.reset()
    assert counts[0] == counts[1] == 2
    image, watched = torch.randn(2, 3, 63, 63), Watched()
    torch._dynamo.mark_dynamic(image, 0)
    compiled = torch.compile(model, backend=watched, fullgraph=True)
    for images in (image, torch.randn(4, 3, 63, 63)):
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-5)
    assert watched.frame_count == 1


def test_graph_breaks_and_hooks() -> None:
    seen = []

    def broken(net: Any, image: Tensor) -> Tensor:
        value = F.relu(net.conv(image))
        torch._dynamo.graph_break()
        return F.relu(net.other(image)) + value

    watched = Watched()
    assert_like_eager(Net(broken), torch.randn(2, 3, 9, 9), watched)
    assert watched.frame_count == 2 and watched.ours == [CONV, CONV]
    model = Net(norm_folds).eval()
    model.conv.register_forward_hook(lambda module, args, output: seen.append(output.sum()))
    watched = Watched()
    assert_like_eager(model, torch.randn(2, 3, 9, 9), watched)
    assert COMBINED not in watched.ours and len(seen) == 3  # plain, compiled, and exactly


def test_dropout_drops_and_its_gradient_knows_what() -> None:
    model = nn.Sequential(nn.Linear(30, 400), nn.ReLU(True), nn.Dropout(0.25)).train()
    rows = torch.randn(8, 30, requires_grad=True)
    watched = Watched()
    found, wanted = torch.compile(model, backend=watched)(rows), model[:2](rows)
    assert watched.ours == [LINEAR]
    kept = (found != 0) & (wanted > 0)
    torch.testing.assert_close(found[kept], wanted[kept] / 0.75)
    assert 0.6 < float(kept.sum() / (wanted > 0).sum()) < 0.9
    gradients = [torch.autograd.grad(value[kept].sum(), rows)[0] for value in (found, wanted / 0.75)]
    torch.testing.assert_close(*gradients)


def test_it_is_known_by_name_without_an_import() -> None:
    code = """
import sys, torch
assert "alexkern" in torch._dynamo.list_backends() and "alexkern" not in sys.modules
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
image = torch.randn(1, 3, 6, 6)
assert torch.allclose(torch.compile(model, backend="alexkern")(image), model(image), atol=1e-6)
assert "alexkern.compiler" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foo": 1}, "alexkern.compiler: options must be of the name 'rest', the only one there is, got 'foo'"),
        ({"rest": "aot"}, r"alexkern.compiler: options\['rest'\] must be 'eager' or 'inductor', got 'aot'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(torch._dynamo.exc.BackendCompilerFailed, match=message):
        torch.compile(nn.Linear(2, 2), backend=compiler.compile_graph, options=options)(torch.ones(1, 2))


def test_export_is_plain_aten() -> None:
    model = torch.compile(small_alexnet().eval(), backend=compiler.compile_graph)
    program = torch.export.export(model, (torch.randn(2, 3, 63, 63),))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert any("conv2d" in target for target in targets) and not any("alexkern" in target for target in targets)


@pytest.mark.full
def test_aotinductor_compiles_plain_aten(tmp_path: Path) -> None:
    """What it writes runs where alexkern is not: fused and compiled for our backend before it was exported."""
    fused, images = alexkern.fuse(small_alexnet().eval()), torch.randn(2, 3, 63, 63)
    program = torch.export.export(torch.compile(fused, backend="alexkern"), (images,))
    written = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    torch.testing.assert_close(
        torch._inductor.aoti_load_package(written)(images), fused(images).detach(), rtol=1e-4, atol=1e-4
    )


def pooled_network(kernel: int, size: int, relu: bool, view: bool) -> nn.Module:
    class Flat(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.view(image.shape[0], -1)

    side = (size - kernel) // 2 + 1
    torch.manual_seed(0)
    rest = [nn.Flatten() if not view else Flat(), nn.Linear(16 * side * side, 5)]
    layers = [nn.Conv2d(8, 16, 3, padding=1), *([nn.ReLU()] if relu else []), nn.MaxPool2d(kernel, 2)]
    return nn.Sequential(*layers, *rest)


# Where inductor of torch 2.13 gives zeros to all that lies before the pooling: kernel, size, ReLU, view.
POOLED = [
    pytest.param(kernel, size, relu, view, setting, fused, marks=() if case in (0, 11) else pytest.mark.full)
    for case, (kernel, size, relu, view, setting, fused) in enumerate(
        (kernel, size, relu, view, setting, fused)
        for kernel, size, view in ((3, 13, False), (2, 12, True), (2, 15, False))
        for relu in (True, False)
        for setting in ("auto", "torch")
        for fused in (True, False)
    )
]


@pytest.mark.parametrize(("kernel", "size", "relu", "view", "setting", "fused"), POOLED)
def test_gradients_before_a_pooling_by_inductor(
    kernel: int, size: int, relu: bool, view: bool, setting: Any, fused: bool
) -> None:
    """Of fused networks under torch.compile, and of any by our backend, with everything else by inductor."""
    model = pooled_network(kernel, size, relu, view).to(DEVICE)
    image = torch.randn(2, 8, size, size, device=DEVICE)
    with alexkern.backend(setting):
        backend = "inductor" if fused else Watched(rest="inductor")
        assert_like_eager(alexkern.fuse(model) if fused else model, image, backend)
