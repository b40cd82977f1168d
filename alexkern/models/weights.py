"""Reading and writing weights files: tensors by name, and what the network needs to be used with them.

Nothing in a file is ever run: .safetensors holds tensors and strings alone, .pth is unpickled with `weights_only=True`.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alexkern.cache import cache_folder, unwritable
from alexkern.console import named
from alexkern.files import whole
from alexkern.models.transforms import ImageClassification

# torchvision's weights. The eight digits are the start of the file's SHA-256, which a download is checked against.
IMAGENET1K_V1_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
PUBLISHED_NAMES = ("IMAGENET1K_V1", "DEFAULT")
PUBLISHED_MODEL = "alexnet"
PUBLISHED_ENUM = "AlexNet_Weights"  # torchvision's
# The last layer of all three networks: (num_classes, 4096) and (num_classes,).
HEAD = "classifier.6"
# What a file asks for is carried out, so it may not ask for images of just any size.
MIN_CROP_SIZE = 63  # below it no network here has an output
MAX_RESIZE_SIZE = 4096


@dataclass(frozen=True)
class Weights:
    """What a weights file holds: tensors by name and, where it says so, the network, its classes and transforms."""

    source: str
    state_dict: Mapping[str, Tensor] = field(repr=False)
    model: str | None = None
    classes: tuple[str, ...] | None = None
    transforms: ImageClassification | None = None

    @property
    def num_classes(self) -> int:
        """The rows of the last layer's weight (num_classes, 4096); ValueError where there is no such matrix."""
        weight = self.state_dict.get(f"{HEAD}.weight")
        if weight is None or weight.dim() != 2:
            raise ValueError(f"{self.source} are of another network: wanted a matrix {HEAD}.weight, there is none")
        return weight.shape[0]


class Network(Protocol):
    """What a weights file is held against, and written from: one of the networks."""

    name: str
    classes: tuple[str, ...] | None

    def transforms(self) -> ImageClassification: ...
    def state_dict(self) -> dict[str, Any]: ...
    def get_parameter(self, target: str) -> Tensor: ...


# What `weights=` of a network takes: a path, a published name or torchvision's enum member of it, or what was read.
WeightsLike = str | os.PathLike[str] | Enum | Weights


def read_weights(weights: WeightsLike, *, model: str = PUBLISHED_MODEL, progress: bool = True) -> Weights:
    """Read a .safetensors or .pth file, or download published weights by their name.

    `weights` is a path, or "IMAGENET1K_V1" or "DEFAULT" (or torchvision's enum member of that name), which `model`
    "alexnet" alone has. `progress` shows the download on stderr. Weights that were read come back as they are.

    Raises FileNotFoundError where there is no such file, OSError where it cannot be read or downloaded, and ValueError
    where it is damaged, holds anything but floating-point tensors by name, or has another hash than was published.
    """
    if isinstance(weights, Weights):
        return weights
    if isinstance(weights, Enum):
        if type(weights).__name__ != PUBLISHED_ENUM:
            raise TypeError(f"{model}: weights must be {PUBLISHED_ENUM}, got {type(weights).__name__}")
        weights = weights.name
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(f"{model}: weights must be a path or a name, got {type(weights).__name__}")
    if weights in PUBLISHED_NAMES:
        if model != PUBLISHED_MODEL:
            raise ValueError(f"{model}: there are no published weights {weights!r} of this network, give a path")
        return _download(f"weights {weights!r}", progress)
    path, source = Path(weights), f"weights {os.fspath(weights)!r}"
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    readers = {".safetensors": _read_safetensors, ".pth": _read_pth, ".pt": _read_pth}
    if path.suffix not in readers:
        raise ValueError(f"{source}: wanted a file name that ends in {', '.join(readers)}")
    return readers[path.suffix](path, source)


def check_weights(model: Network, weights: Weights) -> None:
    """Raise ValueError where the names or shapes of the tensors are not those of the model (which may be on meta)."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.state_dict.items()}
    rows = next(iter(found.get(f"{HEAD}.weight", ())), 0)
    other_head = {name: (rows, *shape[1:]) if name.startswith(HEAD) else shape for name, shape in wanted.items()}
    if found != wanted and found == other_head:
        raise ValueError(
            f"{model.name}: {weights.source} have {rows} classes, but num_classes is "
            f"{len(model.get_parameter(f'{HEAD}.bias'))}; pass num_classes={rows}"
        )
    misshaped = [name for name in wanted if name in found and found[name] != wanted[name]]
    problems = [
        ("missing", [name for name in wanted if name not in found]),
        ("unexpected", [name for name in found if name not in wanted]),
        ("wrong shape", [f"{name} {found[name]}, wanted {wanted[name]}" for name in misshaped]),
    ]
    texts = [
        f"{kind}: {names[0]}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
        for kind, names in problems
        if names
    ]
    if weights.model not in (None, model.name):
        texts.insert(0, f"the file says {weights.model!r}")
    if texts:
        raise ValueError(f"{model.name}: {weights.source} are of another network; {'; '.join(texts)}")


def save_weights(model: Network, path: str | os.PathLike[str]) -> None:
    """Write a .safetensors file with the model's tensors, its name, class names and transforms.

    `weights=path` and `alexkern classify --weights path` read all of them back. The file appears whole or not at all.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_weights: wanted a file name that ends in .safetensors, got {str(path)!r}")
    rows = len(model.get_parameter(f"{HEAD}.bias"))
    if model.classes is not None and len(model.classes) != rows:
        raise ValueError(f"save_weights: the model has {rows} classes, but {len(model.classes)} class names")
    metadata = {
        "format": "pt",
        "alexkern.model": model.name,
        "alexkern.classes": json.dumps(model.classes),
        "alexkern.transforms": json.dumps(asdict(model.transforms())),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole(path) as partial:
        save_file(tensors, partial, metadata)


def _read_safetensors(path: Path, source: str) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{source}: not a whole .safetensors file ({named(error)})") from error
    return _weights(source, tensors, metadata)


def _read_pth(path: Path, source: str) -> Weights:
    with path.open("rb") as file:
        try:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # torch's own message advises to switch weights_only off, which is to run whatever the file holds.
            raise ValueError(f"{source}: refused, it is not a pickle of tensors alone") from error
        except Exception as error:  # a damaged pickle may fail in any way at all
            raise ValueError(f"{source}: not a whole .pth file ({named(error)})") from error
    return _weights(source, tensors, {})


def _download(source: str, progress: bool) -> Weights:
    url = IMAGENET1K_V1_URL
    try:
        tensors = torch.hub.load_state_dict_from_url(
            url, str(_downloads(url)), map_location="cpu", progress=progress, check_hash=True, weights_only=True
        )
    except OSError as error:
        raise OSError(f"{source}: cannot download {url} ({named(error)})") from error
    except Exception as error:  # the hash is another, or the file in torch's cache was damaged since
        raise ValueError(f"{source}: {url} is not what was published ({named(error)})") from error
    return _weights(source, tensors, {"alexkern.model": PUBLISHED_MODEL})


def _downloads(url: str) -> Path:
    """torch's own folder, which torchvision's downloads share, if the file is there or can be put there."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return cache_folder("weights") if not (folder / Path(url).name).exists() and unwritable(folder) else folder


def _weights(source: str, tensors: Any, metadata: Mapping[str, str]) -> Weights:
    if not isinstance(tensors, Mapping) or not tensors:
        raise ValueError(f"{source}: wanted tensors by name, got {type(tensors).__name__}")
    for name, tensor in tensors.items():
        dense = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
        if not isinstance(name, str) or not dense or not tensor.is_floating_point():
            raise ValueError(f"{source}: wanted floating-point tensors by name, but {name!r} is something else")
    weights = Weights(source, tensors, metadata.get("alexkern.model"))
    try:
        classes = json.loads(metadata.get("alexkern.classes", "null"))
        transforms = json.loads(metadata.get("alexkern.transforms", "null"))
        return replace(weights, classes=_classes(classes, weights), transforms=_transforms(transforms))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{source}: the file's class names or transforms are damaged ({named(error)})") from error


def _classes(names: Any, weights: Weights) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("the class names are not a list of strings")
    if len(names) != weights.num_classes:
        raise ValueError(f"{len(names)} class names for {weights.num_classes} classes")
    return tuple(names)


def _transforms(values: Any) -> ImageClassification | None:
    if values is None:
        return None
    crop_size, resize_size = values["crop_size"], values["resize_size"]
    if not all(isinstance(size, int) and MIN_CROP_SIZE <= size <= MAX_RESIZE_SIZE for size in (crop_size, resize_size)):
        raise ValueError(f"wanted sizes of {MIN_CROP_SIZE} to {MAX_RESIZE_SIZE}, got {crop_size} and {resize_size}")
    mean, std = (tuple(map(float, values[name])) for name in ("mean", "std"))
    return ImageClassification(crop_size, resize_size, mean, std)  # type: ignore[arg-type]  # checked there
