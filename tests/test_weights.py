"""weights=: files that load, and the one clear error that every other file gets."""

from __future__ import annotations

import enum
import hashlib
import json
import pickle
import re
import sys
import urllib.error
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from alexkern.models import (
    MODELS,
    AlexNet,
    ImageClassification,
    Weights,
    alexnet,
    alexnet_2012,
    read_weights,
    save_weights,
    weights,
)
from support.tiny import Narrow

NUM_CLASSES = 3


def constants(name: str = "alexnet", num_classes: int = NUM_CLASSES) -> dict[str, Tensor]:
    """A state_dict with a number of its own in every tensor, and one element of memory for each."""
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in MODELS[name](num_classes=num_classes).state_dict().items()}
    return {key: torch.tensor(index / 8).expand(shape) for index, (key, shape) in enumerate(shapes.items(), start=1)}


def write_pth(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def assert_constants(model: AlexNet) -> None:
    for index, (name, parameter) in enumerate(model.named_parameters(), start=1):
        assert parameter.dtype == torch.float32 and parameter.requires_grad
        assert (parameter == index / 8).all(), name


@pytest.fixture
def small(monkeypatch) -> type[AlexNet]:
    # By sys.modules, because alexkern.models.alexnet is the function.
    monkeypatch.setattr(sys.modules["alexkern.models.alexnet"], "AlexNet", Narrow)
    return Narrow


@pytest.mark.parametrize("name", list(MODELS))
def test_pth(name, tmp_path):
    path = write_pth(tmp_path / "weights.pth", constants(name))
    model = MODELS[name](weights=path, num_classes=NUM_CLASSES, dropout=0.25)
    assert_constants(model)
    assert type(model).name == name and model.training
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    assert model.classes is None and model.transforms() == ImageClassification()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_become_float32(small, dtype, tmp_path):
    """Eighths are the same number in each."""
    tensors = enumerate(small(NUM_CLASSES).state_dict().items(), 1)
    tensors = {name: torch.full_like(tensor, index / 8, dtype=dtype) for index, (name, tensor) in tensors}
    save_file(tensors, tmp_path / "weights.safetensors")
    assert_constants(alexnet(weights=str(tmp_path / "weights.safetensors"), num_classes=NUM_CLASSES))


def test_safetensors_keep_what_belongs_to_the_weights(small, tmp_path):
    model = small(NUM_CLASSES).to(memory_format=torch.channels_last)
    model.classes = ("un", "deux\n", "[red]trois")
    model.preprocessing = ImageClassification(63, 70, (0.1, 0.2, 1 / 3), (0.5, 0.6, 0.7))
    path = tmp_path / "weights.safetensors"
    save_weights(model, path)
    again = alexnet(weights=path, num_classes=NUM_CLASSES)
    assert again.classes == model.classes and again.transforms() == model.transforms()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    read = read_weights(path)
    assert (read.model, read.num_classes) == ("alexnet", NUM_CLASSES)
    assert_same = alexnet(weights=read, num_classes=NUM_CLASSES)
    assert torch.equal(assert_same.features[0].weight, model.features[0].weight)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_saving_is_all_or_nothing(small, tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"the file before")

    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(small(NUM_CLASSES), path)
    assert path.read_bytes() == b"the file before" and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_saved(small, tmp_path):
    model = small(NUM_CLASSES)
    with pytest.raises(ValueError, match=r"save_weights: .*\.safetensors.*weights\.pth"):
        save_weights(model, tmp_path / "weights.pth")
    model.classes = ("one", "two")
    with pytest.raises(ValueError, match="save_weights: the model has 3 classes, but 2 class names"):
        save_weights(model, tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_classes", [1, 2, 4, 1000])
def test_another_number_of_classes(num_classes, tmp_path):
    path = write_pth(tmp_path / "weights.pth", constants())
    with pytest.raises(ValueError, match=f"alexnet: .*weights.pth' have 3 classes.*is {num_classes}; pass num_cl.*=3"):
        alexnet(weights=path, num_classes=num_classes)


def test_another_network(tmp_path):
    path = write_pth(tmp_path / "weights.pth", constants("alexnet_single_tower"))
    with pytest.raises(ValueError, match="alexnet: weights .* another network") as caught:
        alexnet(weights=path, num_classes=NUM_CLASSES)
    words = str(caught.value).split("; ")
    assert words[1:] == [
        "missing: classifier.1.weight (and 3 more)",
        "unexpected: classifier.0.weight (and 3 more)",
        "wrong shape: features.0.weight (96, 3, 11, 11), wanted (64, 3, 11, 11) (and 7 more)",
    ]


@pytest.mark.parametrize(
    "name, tensor, words",
    [
        ("features.6.bias", None, "missing: features.6.bias"),
        ("extra", torch.zeros(1), "unexpected: extra"),
        ("classifier.6.weight", torch.zeros(3, 512), "wrong shape: classifier.6.weight (3, 512), wanted (3, 4096)"),
        ("classifier.6.bias", torch.zeros(4), "wrong shape: classifier.6.bias (4,), wanted (3,)"),
        ("classifier.6.weight", torch.zeros(()), "wrong shape: classifier.6.weight (), wanted (3, 4096)"),
    ],
)
def test_one_tensor_that_misfits(name, tensor, words, tmp_path):
    tensors = {key: value for key, value in (constants() | {name: tensor}).items() if value is not None}
    with pytest.raises(ValueError, match="alexnet: .*another network") as caught:
        alexnet(weights=write_pth(tmp_path / "weights.pth", tensors), num_classes=NUM_CLASSES)
    assert str(caught.value).split("; ")[1:] == [words]


def test_no_head_to_count_classes_by(tmp_path):
    tensors = constants()
    del tensors["classifier.6.weight"]
    with pytest.raises(ValueError, match=r"weights.pth' are of another network: wanted a matrix classifier\.6\.weight"):
        read_weights(write_pth(tmp_path / "weights.pth", tensors)).num_classes  # noqa: B018


class Bomb:
    """What a pickle can do when it is loaded: here, create a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
@pytest.mark.parametrize("writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_not_run(suffix, writer, tmp_path):
    path, target = tmp_path / f"weights{suffix}", tmp_path / "was-here"
    writer({"features.0.weight": Bomb(target)}, path)
    with pytest.raises(ValueError, match=f"weights '.*{suffix}': refused.*tensors alone") as caught:
        alexnet(weights=path)
    assert not target.exists()
    assert "weights_only" not in str(caught.value)


def test_a_pickled_module_is_refused(tmp_path):
    with pytest.raises(ValueError, match="refused"):
        alexnet(weights=write_pth(tmp_path / "weights.pth", nn.Linear(1, 1)))


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(1)],
        {},
        torch.zeros(1),
        {"epoch": 3, "state_dict": {"features.0.weight": torch.zeros(1)}},
        {"features.0.weight": torch.zeros(1, dtype=torch.int8)},
        {"features.0.weight": torch.zeros(1, device="meta")},
        {"features.0.weight": torch.zeros(2, 2).to_sparse()},
        {3: torch.zeros(1)},
    ],
)
def test_something_else_than_tensors_by_name(content, tmp_path):
    with pytest.raises(ValueError, match=r"weights\.pth': wanted (floating-point )?tensors by name"):
        alexnet(weights=write_pth(tmp_path / "weights.pth", content))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [0, 1, 7, 100, 20_000, -1, b"Dear all,\nplease find attached\n", b"\x89PNG\r\n\x1a\n", bytes(1000)]
)
def test_a_file_cut_short_or_of_something_else(small, suffix, content, tmp_path):
    """content: what there is in place of a whole file, or where that is cut."""
    path = tmp_path / f"weights{suffix}"
    tensors = small(NUM_CLASSES).state_dict()
    torch.save(tensors, path) if suffix == ".pth" else save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(ValueError, match=f"weights{suffix}': (not a whole|refused)") as caught:
        alexnet(weights=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"alexkern.classes": "[1, 2, 3]"},
        {"alexkern.classes": '["one", "two"]'},
        {"alexkern.classes": '"abc"'},
        {"alexkern.classes": "["},
        {"alexkern.classes": "[" * 100_000},
        {"alexkern.transforms": "3"},
        {"alexkern.transforms": "{}"},
        {"alexkern.transforms": {"crop_size": 62}},
        {"alexkern.transforms": {"resize_size": 100_000}},
        {"alexkern.transforms": {"crop_size": 80}},
        {"alexkern.transforms": {"crop_size": 63.5}},
        {"alexkern.transforms": {"mean": [0.5]}},
        {"alexkern.transforms": {"std": [0.0, 1.0, 1.0]}},
        {"alexkern.transforms": {"std": ["a", "b", "c"]}},
    ],
)
def test_damaged_metadata(metadata, tmp_path):
    good = {"crop_size": 63, "resize_size": 70, "mean": [0.5] * 3, "std": [0.5] * 3}
    texts = {key: json.dumps(good | value) if isinstance(value, dict) else value for key, value in metadata.items()}
    save_file({"classifier.6.weight": torch.zeros(3, 4096)}, tmp_path / "weights.safetensors", texts)
    with pytest.raises(ValueError, match=r"weights\.safetensors': the file's class names or transforms are damaged \("):
        read_weights(tmp_path / "weights.safetensors")


def test_metadata_of_other_programs_is_left_alone(tmp_path):
    save_file(
        {"classifier.6.weight": torch.zeros(3, 4096)},
        tmp_path / "weights.safetensors",
        {"model": "resnet18", "classes": "who knows"},
    )
    read = read_weights(tmp_path / "weights.safetensors")
    assert (read.model, read.classes, read.transforms, read.num_classes) == (None, None, None, 3)


def test_the_file_says_which_network_it_is_of(tmp_path):
    read = Weights("weights 'a'", constants(), model="alexnet_2012")
    with pytest.raises(ValueError, match="alexnet: weights 'a' are of another network; the file says 'alexnet_2012'$"):
        alexnet(weights=read, num_classes=NUM_CLASSES)


def test_paths_that_lead_nowhere(tmp_path):
    for path in (tmp_path / "none.pth", str(tmp_path / "none.safetensors"), tmp_path, "imagenet1k_v1"):
        with pytest.raises(FileNotFoundError, match="weights '.*': no such file"):
            alexnet(weights=path)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"weights\.bin': wanted a file name that ends in \.safetensors, \.pth, \.pt"):
        alexnet(weights=tmp_path / "weights.bin")
    for not_a_path in (3, True, b"weights.pth", {"features.0.weight": torch.zeros(1)}):
        with pytest.raises(TypeError, match="alexnet: weights must be a path or a name"):
            alexnet(weights=not_a_path)


class AlexNet_Weights(enum.Enum):
    """As torchvision's: one member with two names."""

    IMAGENET1K_V1 = "url and transforms"
    DEFAULT = IMAGENET1K_V1


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A stand-in for the published file, its hash in its name, and an empty cache."""

    def publish(hash: str | None = None) -> Path:
        path = write_pth(tmp_path / "alexnet.pth", constants(num_classes=1000))
        hash = hash or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        path = path.rename(tmp_path / f"alexnet-owt-{hash}.pth")
        monkeypatch.setattr(weights, "IMAGENET1K_V1_URL", path.as_uri())
        return path

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return publish


class VGG11_Weights(enum.Enum):
    """Another network's, with a member of the same name."""

    IMAGENET1K_V1 = DEFAULT = "url and transforms"


@pytest.mark.parametrize("name", list(MODELS))
def test_another_network_s_enum(name):
    with pytest.raises(TypeError, match=f"{name}: weights must be AlexNet_Weights, got VGG11_Weights"):
        MODELS[name](weights=VGG11_Weights.DEFAULT)


@pytest.mark.parametrize(("given", "name"), [(True, "DEFAULT"), (AlexNet_Weights.DEFAULT, AlexNet_Weights.DEFAULT)])
def test_older_names(given, name, monkeypatch):
    read = mock.Mock(side_effect=LookupError)
    monkeypatch.setattr(sys.modules["alexkern.models.alexnet"], "read_weights", read)
    with pytest.raises(LookupError):
        alexnet(pretrained=given, progress=False)
    read.assert_called_once_with(name, model="alexnet", progress=False)


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT", AlexNet_Weights.DEFAULT])
def test_published_weights(name, published, capfd):
    path = published()
    assert_constants(alexnet(weights=name, progress=False))
    assert "%" not in capfd.readouterr().err
    path.unlink()  # from here on the cache has it
    model = alexnet(weights=name)
    assert_constants(model)
    assert model.transforms() == ImageClassification()


def test_the_download_shows_its_progress(published, capfd):
    published()
    read_weights("DEFAULT", progress=True)
    assert re.search(r"100(\.0)?%", capfd.readouterr().err)


def test_a_download_with_another_hash(published, tmp_path):
    published(hash="7be5be79")
    with pytest.raises(ValueError, match="weights 'DEFAULT': .* is not what was published .*hash"):
        alexnet(weights="DEFAULT")
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_a_damaged_cache(published, tmp_path):
    published()
    read_weights("DEFAULT")
    (cached,) = (tmp_path / "cache").rglob("*.pth")
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(ValueError, match="weights 'DEFAULT': .* is not what was published"):
        alexnet(weights="DEFAULT")


def test_a_download_that_fails(published, monkeypatch):
    published().unlink()
    with pytest.raises(OSError, match="weights 'DEFAULT': cannot download file://.*alexnet-owt-") as caught:
        alexnet(weights="DEFAULT")
    assert isinstance(caught.value.__cause__, urllib.error.URLError)


def test_published_weights_are_checked_for_num_classes(published):
    published()
    with pytest.raises(ValueError, match="have 1000 classes, but num_classes is 10"):
        alexnet(weights="DEFAULT", num_classes=10)


@pytest.mark.parametrize("name", ["alexnet_2012", "alexnet_single_tower"])
def test_networks_without_published_weights(name, published):
    published()
    with pytest.raises(ValueError, match=f"{name}: there are no published weights 'DEFAULT' of this network"):
        MODELS[name](weights="DEFAULT")


def test_arguments_are_checked_with_weights_too(tmp_path):
    path = write_pth(tmp_path / "weights.pth", constants())
    with pytest.raises(ValueError, match="alexnet_2012: dropout must be"):
        alexnet_2012(weights=path, num_classes=NUM_CLASSES, dropout=2)


@pytest.mark.filterwarnings("ignore:.*which is a no-op")
def test_the_default_device_is_used(tmp_path):
    path = write_pth(tmp_path / "weights.pth", constants())
    with torch.device("meta"):
        assert alexnet(weights=path, num_classes=NUM_CLASSES).features[0].weight.is_meta
