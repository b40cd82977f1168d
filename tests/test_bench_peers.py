"""The peers of other makers: those that are here compute the network, of the others what their library is asked."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn
from torch._inductor import config

from alexkern.bench.peers import PEERS, cudnn_frontend, onnxruntime, tensorrt
from alexkern.bench.peers.compile import Compile
from alexkern.bench.peers.cudnn import ConvolutionRelu
from alexkern.bench.peers.onnx_export import exported
from alexkern.bench.peers.onnxruntime import OnnxRuntime
from alexkern.bench.peers.openvino import OpenVino
from alexkern.bench.peers.peer import bound
from alexkern.bench.peers.tensorrt import TensorRT
from support.optional import need


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5)).eval()


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_openvino_computes_the_network(dtype):
    openvino = need("openvino")
    model, example = network(), torch.randn(2, 3, 8, 8)
    expected = model(example)
    core = openvino.Core()
    compile_model = mock.Mock(wraps=core.compile_model)
    with mock.patch.object(openvino, "Core", lambda: SimpleNamespace(compile_model=compile_model)):
        call = OpenVino().prepare(model.to(dtype), example.to(dtype))
    found = call()
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05 if dtype == torch.bfloat16 else 1e-5)
    _, device, settings = compile_model.call_args.args
    how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    precision = "f32" if dtype == torch.float32 else "bf16"
    assert device == "CPU" and settings == how | {"INFERENCE_PRECISION_HINT": precision}


def test_onnxruntime_computes_the_network():
    library = need("onnxruntime")
    need("onnxscript")
    model, example = network(), torch.randn(2, 3, 8, 8)
    with mock.patch.object(library, "InferenceSession", wraps=library.InferenceSession) as session:
        call = OnnxRuntime().prepare(model, example)
    torch.testing.assert_close(call(), model(example).detach())
    assert session.call_args.args[1].intra_op_num_threads == torch.get_num_threads()
    assert session.call_args.kwargs == {"providers": [("CPUExecutionProvider", {})]}
    with mock.patch.object(library, "get_available_providers", list), pytest.raises(RuntimeError) as caught:
        OnnxRuntime().prepare(model, example)
    assert str(caught.value) == "this onnxruntime has no CPUExecutionProvider"


@pytest.fixture
def on_a_gpu(monkeypatch):
    """torch's stream has the number 7, and a file of the network is /there."""

    @contextmanager
    def at(model, example):
        yield "/there"

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=7))
    for peer in (onnxruntime, tensorrt):
        monkeypatch.setattr(peer, "exported", at)


def test_what_is_exported():
    with (
        mock.patch.object(torch.onnx, "export") as export,
        exported(model := network(), example := torch.ones(1)) as path,
    ):
        assert path.endswith("/model.onnx")
    assert export.call_args == mock.call(model, (example,), path, input_names=["input"], dynamo=True, verbose=False)


@pytest.mark.parametrize(("tf32", "index"), [(True, None), (False, 3)])
def test_onnxruntime_stays_on_the_gpu_and_on_torchs_stream(tf32, index, on_a_gpu, monkeypatch):
    library = mock.MagicMock()
    library.get_available_providers.return_value = ["CUDAExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    monkeypatch.setattr(torch, "from_dlpack", lambda capsule: ("torch's", capsule))
    example = mock.Mock(is_cuda=True, device=SimpleNamespace(index=index))
    example.__dlpack__ = lambda *_: "the images"
    call = OnnxRuntime().prepare(network(), example)
    session = library.InferenceSession.return_value
    settings = {"device_id": str(index or 0), "user_compute_stream": "7", "cudnn_conv_algo_search": "EXHAUSTIVE"}
    provider = ("CUDAExecutionProvider", settings | {"use_tf32": str(int(tf32))})
    assert library.InferenceSession.call_args.args[0] == "/there"
    assert library.InferenceSession.call_args.kwargs == {"providers": [provider]}
    binding = session.io_binding.return_value
    binding.bind_ortvalue_input.assert_called_once_with("input", library.OrtValue.from_dlpack.return_value)
    library.OrtValue.from_dlpack.assert_called_once_with("the images")
    name = session.get_outputs.return_value[0].name
    binding.bind_output.assert_called_once_with(name, "cuda", index or 0)
    session.run_with_iobinding.assert_not_called()
    assert call() == ("torch's", binding.get_outputs.return_value[0].to_dlpack.return_value)
    session.run_with_iobinding.assert_called_once_with(binding)


@pytest.mark.parametrize("tf32", [True, False])
def test_tensorrt_is_typed_and_writes_to_one_output(tf32, on_a_gpu, monkeypatch):
    library = mock.MagicMock()
    library.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 3
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    builder, parser = library.Builder.return_value, library.OnnxParser.return_value
    engine = library.Runtime.return_value.deserialize_cuda_engine
    context = engine.return_value.create_execution_context.return_value
    context.get_tensor_shape.return_value = [2, 5]
    example = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    call = TensorRT().prepare(network(), example)
    builder.create_network.assert_called_once_with(8)
    library.Logger.assert_called_once_with(library.Logger.ERROR)
    parser.parse_from_file.assert_called_once_with("/there")
    config = builder.create_builder_config.return_value
    assert config.clear_flag.call_args_list == [mock.call(library.BuilderFlag.TF32)] * (not tf32)
    built = builder.create_network.return_value
    builder.build_serialized_network.assert_called_once_with(built, config)
    engine.assert_called_once_with(builder.build_serialized_network.return_value)
    (_, images), (name, output) = (one.args for one in context.set_tensor_address.call_args_list)
    assert context.set_tensor_address.call_args_list[0].args[0] == "input" and images != example.data_ptr()
    assert name is built.get_output.return_value.name and built.get_output.call_args.args == (0,)
    found = call()
    assert found.shape == (2, 5) and found.dtype == example.dtype and found.data_ptr() == output
    context.execute_async_v3.assert_called_once_with(7)
    context.execute_async_v3.return_value = False
    with pytest.raises(RuntimeError, match="^TensorRT could not run the network$"):
        call()
    builder.build_serialized_network.return_value = None
    with pytest.raises(RuntimeError, match="^TensorRT found no plan for the network$"):
        TensorRT().prepare(network(), example)
    parser.parse_from_file.return_value, parser.get_error.side_effect = False, "no such file".split().__getitem__
    with pytest.raises(RuntimeError, match="^no$"):
        TensorRT().prepare(network(), example)


@pytest.mark.parametrize("bias", [True, False])
def test_cudnns_graph_is_of_the_convolution_its_bias_and_relu(bias, on_a_gpu, monkeypatch):
    library = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "cudnn", library)
    graph = library.pygraph.return_value
    graph.get_workspace_size.return_value = 0
    graph.tensor_like.side_effect = lambda tensor: f"like {tuple(tensor.shape)}"
    conv = nn.Conv2d(3, 4, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=bias)
    model = nn.Sequential(conv, nn.ReLU()).to(torch.float16)
    input = torch.randn(2, 3, 9, 12).half()
    fused = cudnn_frontend.CudnnFrontend().prepare(model, input)
    found = fused()
    assert found.shape == (2, 4, 5, 4) and found.is_contiguous(memory_format=torch.channels_last)
    data, handle = library.data_type, library.create_handle.return_value
    library.pygraph.assert_called_once_with(
        io_data_type=data.HALF, intermediate_data_type=data.FLOAT, compute_data_type=data.FLOAT, handle=handle
    )
    x, w, b = "like (2, 3, 9, 12)", "like (4, 3, 3, 5)", "like (1, 4, 1, 1)"
    graph.conv_fprop.assert_called_once_with(image=x, weight=w, padding=[1, 0], stride=[2, 1], dilation=[1, 2])
    product = graph.conv_fprop.return_value
    assert graph.bias.call_args_list == [mock.call(name="bias", input=product, bias=b)] * bias
    graph.relu.assert_called_once_with(name="relu", input=graph.bias.return_value if bias else product)
    y = graph.relu.return_value
    y.set_output.assert_called_once_with(True)
    y.set_output.return_value.set_data_type.assert_called_once_with(data.HALF)
    graph.build.assert_called_once_with([library.heur_mode.A, library.heur_mode.FALLBACK])
    fused()  # with the graph that is there
    assert library.pygraph.call_count == 1 and graph.execute.call_count == 2
    library.set_stream.assert_called_with(handle=handle, stream=7)
    operands, workspace = graph.execute.call_args.args
    assert workspace.shape == (1,) and workspace.dtype == torch.uint8
    assert operands.keys() == {x, w, y} | ({b} if bias else set())
    assert torch.equal(operands[x], input) and torch.equal(operands[w], conv.weight)
    assert operands[w].is_contiguous(memory_format=torch.channels_last) and not operands[w].requires_grad


@pytest.fixture
def compiled(monkeypatch):
    """What torch.compile is asked, and what happens in the calls of what it makes."""
    log = []

    def compile(model, **how):
        log.append(how)

        def call(images):
            grad = "grad" if torch.is_grad_enabled() else "no grad"
            mode = "inference" if torch.is_inference_mode_enabled() else grad
            log.append((mode, config.freezing, images.is_contiguous(memory_format=torch.channels_last)))
            return model(images)

        call.training = model.training
        return call

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: log.append("step"))
    return log


COMPILED = {
    "torch.compile": ("default", True), "torch.compile contiguous": ("default", False),
    "torch.compile CUDA graphs": ("reduce-overhead", True),
    "torch.compile max-autotune": ("max-autotune-no-cudagraphs", True),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
def test_what_inductor_is_asked(name, compiled):
    (peer,) = (peer for peer in PEERS if peer.name == name)
    mode, last = COMPILED[name]
    for training in (False, True):
        compiled.clear()
        model, example = network().train(training), torch.randn(2, 3, 8, 8)
        call = peer.prepare(model, example)
        assert call().requires_grad is training
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last) is last
        steps = ["step"] * (mode == "reduce-overhead")
        run = ("grad" if training else "inference", False, last)
        assert compiled == [{"dynamic": False, "mode": mode, "backend": "inductor"}, *steps, run]
    assert {peer.name for peer in PEERS if isinstance(peer, Compile)} == COMPILED.keys()
    own = Compile("ours", backend="alexkern", ours=True)
    compiled.clear()
    own.prepare(network(), example)
    assert own.ours and compiled[0]["backend"] == "alexkern"


def test_weights_are_frozen_while_the_first_call_compiles(compiled):
    (peer,) = (peer for peer in PEERS if peer.name == "torch.compile frozen")
    call = peer.prepare(network(), torch.randn(2, 3, 8, 8))
    assert compiled == [{"dynamic": False}, ("no grad", True, True)]
    assert not call().requires_grad and compiled[2:] == [("no grad", False, True)]


@pytest.mark.parametrize("training", [False, True])
def test_a_call_records_gradients_where_the_model_trains(training):
    seen = []
    model = network().train(training)
    model.register_forward_hook(lambda *_: seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled())))
    bound(model, torch.ones(1, 3, 8, 8))()
    bound(lambda images: model(images), torch.ones(1, 3, 8, 8))()
    assert seen == [(not training, training), (True, False)]


def test_convolutions_of_cudnn_are_torchs(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "cudnn_convolution_relu", lambda *of: asked.append(of) or of[0])
    conv = nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2)
    images = torch.ones(1, 4, 9, 9)
    ConvolutionRelu(conv)(images)
    assert asked[0][:3] == (images, conv.weight, conv.bias) and asked[0][3:] == ((2, 1), (1, 0), (1, 2), 2)
