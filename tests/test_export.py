"""export: what other tools load gives the network's own logits, and one clear line where it cannot be written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from alexkern import cli
from alexkern import export as exporting
from alexkern.export import ExportError, export
from alexkern.models import MODELS, AlexNet, ImageClassification, save_weights
from support.optional import need
from support.tiny import Tiny, tiny


@pytest.fixture
def model() -> Tiny:
    torch.manual_seed(4)
    model = tiny(num_classes=3).eval()
    model.preprocessing = ImageClassification(63, 64)
    return model


def logits(model: AlexNet, images: Tensor) -> Tensor:
    """By torch's own modules."""
    with torch.no_grad():
        return nn.Sequential(*model.features, model.avgpool, nn.Flatten(), *model.classifier)(images)


LOAD = """
import sys
import torch
images, wanted = torch.load(sys.argv[2])
program = torch.export.load(sys.argv[1]).module()
for n in (1, 5):
    torch.testing.assert_close(program(images[:n]), wanted[:n], rtol=1e-4, atol=1e-5)
assert not [name for name in sys.modules if name.startswith("alexkern")]
"""


def test_torch_export_round_trips_without_alexkern(model: Tiny, tmp_path: Path) -> None:
    images = torch.randn(5, 3, 63, 63)
    assert export(model.train(), "torch-export", tmp_path / "m.pt2") == tmp_path / "m.pt2"
    assert model.training
    torch.save((images, logits(model.eval(), images)), tmp_path / "data.pt")
    line = [sys.executable, "-c", LOAD, str(tmp_path / "m.pt2"), str(tmp_path / "data.pt")]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_is_exportable(name: str) -> None:
    with torch.device("meta"):
        network = MODELS[name](num_classes=4).eval()
    program = exporting._program(network, torch.empty(2, 3, 63, 63, device="meta"))
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [operator for operator in operators if "alexkern" in operator]
    assert sum("conv2d" in operator for operator in operators) == 1


def test_torchvision_loads_it(tmp_path: Path) -> None:
    theirs = need("torchvision").models.alexnet(num_classes=4)
    export(MODELS["alexnet"](num_classes=4), "torchvision", tmp_path / "m.pth")
    found = torch.load(tmp_path / "m.pth", weights_only=True, mmap=True)
    assert list(found) == list(theirs.state_dict())
    theirs.load_state_dict(found)


def test_onnx_runtime_gives_the_same_logits(model: Tiny, tmp_path: Path) -> None:
    _, _, onnxruntime = need("onnx"), need("onnxscript"), need("onnxruntime")
    model.classes, model.preprocessing = (
        ("Äsche", "b", "c"),
        ImageClassification(63, 64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    )
    export(model, "onnx", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randn(count, 3, 63, 63)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), logits(model, images), rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("images", ["N", 3, 63, 63])
    assert (made.name, made.shape) == ("logits", ["N", 3])
    assert {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()} == {
        "alexkern.model": "alexnet", "alexkern.classes": ["Äsche", "b", "c"], "alexkern.size": 63,
        "alexkern.resize": 64, "alexkern.mean": [0.1, 0.2, 0.3], "alexkern.std": [0.4, 0.5, 0.6],
    }  # fmt: skip


def test_onnx_that_is_not_installed(model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"onnx": None, "onnxscript": "onnxscript is not installed (pip install it)"}
    monkeypatch.setattr(exporting, "why_missing", lambda name, install: reasons[name])
    with pytest.raises(ExportError, match=r"^onnxscript is not installed \(pip install it\)$"):
        export(model, "onnx", tmp_path / "m.onnx")


def test_onnx_that_is_broken(small: None, model: Tiny, tmp_path: Path, monkeypatch, capsys) -> None:
    """It may raise anything, and the command says what in one line."""
    (tmp_path / "onnxscript.py").write_text("raise RuntimeError('operator onnx::Loop does not exist\\nsee the log')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", ModuleType("onnx"))
    monkeypatch.delitem(sys.modules, "onnxscript", raising=False)
    monkeypatch.chdir(tmp_path)
    save_weights(model, "net.safetensors")
    exporting.why_missing.cache_clear()
    try:
        assert cli.main(["export", "net.safetensors", "--to", "onnx"]) == 2
    finally:
        exporting.why_missing.cache_clear()
    wanted = "onnxscript does not import: operator onnx::Loop does not exist see the log\n"
    assert capsys.readouterr().err == f"alexkern export: {wanted}"


@pytest.mark.parametrize(
    "network, form, name, words",
    [
        ("tiny", "caffe", "m.pth", "wanted one of torchvision, onnx, torch-export, got 'caffe'"),
        ("tiny", "torch-export", "m.pth", "m.pth: wanted a file name that ends in .pt2"),
        ("tiny", "torch-export", "none/m.pt2", "no such folder"),
        ("alexnet_2012", "torchvision", "m.pth", "torchvision has no alexnet_2012"),
    ],
)
def test_what_cannot_be_written(network: str, form: str, name: str, words: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = (MODELS | {"tiny": tiny})[network](num_classes=4)
    with pytest.raises(ExportError, match=words):
        export(model, form, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 62, 4097, 10**9])
def test_a_size_that_the_network_cannot_take(size: int, model: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"^size: wanted 63 to 4096 pixels, got {size}$"):
        export(model, "torch-export", tmp_path / "m.pt2", size)


def test_the_command(small: None, model: Tiny, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    save_weights(model, "net.safetensors")
    assert cli.main(["export", "net.safetensors", "--to", "torchvision"]) == 0
    assert cli.main(["export", "net.safetensors", "--to", "torch-export", "--out", "x.pt2"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["net.pth written", "x.pt2 written"]
    state = torch.load("net.pth", weights_only=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    for arguments, words in (
        (["none.pth", "--to", "torchvision"], "none.pth': no such file"),
        (["net.safetensors", "--to", "torchvision", "--out", "x.onnx"], "wanted a file name that ends in .pth"),
    ):
        assert cli.main(["export", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("alexkern export: ") and words in line
