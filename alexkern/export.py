"""A network as files that other tools load."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from alexkern.files import whole
from alexkern.models import AlexNet
from alexkern.models.weights import MAX_RESIZE_SIZE, MIN_CROP_SIZE
from alexkern.optional import PEERS, why_missing

TORCHVISION_TWIN = "alexnet"  # the network of which torchvision has the very same
SUFFIXES = {"torchvision": ".pth", "onnx": ".onnx", "torch-export": ".pt2"}
NEEDED = {"onnx": ("onnx", "onnxscript")}  # packages
INPUT, OUTPUT = "images", "logits"
SHAPES = ({0: torch.export.Dim("N", min=1)},)  # the batch is free


class ExportError(Exception):
    """The network cannot be written in this form. The message is one line for the user."""


def export(model: AlexNet, form: str, path: str | os.PathLike[str], size: int | None = None) -> Path:
    """Write a network for other tools, which need nothing of alexkern to load it.

    Args:
        model: one of the three networks; it is exported in eval mode and left as it was.
        form: "torchvision", a .pth file with the state_dict that torchvision.models.alexnet loads; "onnx", a file for
            ONNX Runtime and others, with input "images" (N, 3, size, size) and output "logits" (N, classes), N free,
            and in its metadata model, classes, size, resize, mean and std, each as JSON behind "alexkern.";
            "torch-export", a .pt2 file for torch.export.load, likewise.
        path: the file to write. It appears whole or not at all.
        size: height and width in pixels of the images, 63 to 4096; default: the crop of `model.transforms()`.

    Raises:
        ExportError: another network than torchvision's, onnx or onnxscript that does not import, or a size, file name
            or folder that does not fit.
    """
    path = Path(path)
    if form not in SUFFIXES:
        raise ExportError(f"wanted one of {', '.join(SUFFIXES)}, got {form!r}")
    if path.suffix != SUFFIXES[form]:
        raise ExportError(f"{path}: wanted a file name that ends in {SUFFIXES[form]}")
    if not path.parent.is_dir():
        raise ExportError(f"{path}: no such folder {path.parent}")
    if form == "torchvision" and model.name != TORCHVISION_TWIN:
        raise ExportError(f"torchvision has no {model.name}: its alexnet has other layers; wanted {TORCHVISION_TWIN}")
    for package in NEEDED.get(form, ()):
        reason = why_missing(package, PEERS)
        if reason:
            raise ExportError(reason)
    parameter = next(model.parameters())
    size = model.transforms().crop_size if size is None else size
    if not MIN_CROP_SIZE <= size <= MAX_RESIZE_SIZE:
        raise ExportError(f"size: wanted {MIN_CROP_SIZE} to {MAX_RESIZE_SIZE} pixels, got {size}")
    # Two images: a batch of one would be taken for a size that never changes.
    example = torch.zeros(2, 3, size, size, dtype=parameter.dtype, device=parameter.device)
    training = model.training
    try:
        model.eval()
        with whole(path) as partial:
            _WRITERS[form](model, example, partial)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        model.train(training)
    return path


def _state_dict(model: AlexNet, example: Tensor, path: Path) -> None:
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, path)


def _program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=SHAPES)


def _torch_export(model: AlexNet, example: Tensor, path: Path) -> None:
    torch.export.save(_program(model, example), path)


def _onnx(model: AlexNet, example: Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        program = torch.onnx.export(
            _program(model, example), (example,), input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=SHAPES,
            dynamo=True, verbose=False,
        )  # fmt: skip
        assert program is not None
        program.model.metadata_props.update(_metadata(model, example.shape[-1]))
        program.save(path, external_data=False)


def _metadata(model: AlexNet, size: int) -> dict[str, str]:
    """What it takes to use the file alone: each value is JSON."""
    seen = model.transforms()
    values = {
        "model": model.name, "classes": model.classes, "size": size, "resize": max(size, seen.resize_size),
        "mean": seen.mean, "std": seen.std,
    }  # fmt: skip
    return {f"alexkern.{name}": json.dumps(value) for name, value in values.items()}


_WRITERS: dict[str, Callable[[AlexNet, Tensor, Path], None]] = {
    "torchvision": _state_dict,
    "onnx": _onnx,
    "torch-export": _torch_export,
}
