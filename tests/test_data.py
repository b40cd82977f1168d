"""alexkern.data: what is found, decoded, ordered and put on a device, and one clear line where it cannot be."""

from __future__ import annotations

import itertools
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexkern.data import (
    BatchOrder,
    DamageTally,
    DataError,
    Loader,
    UnreadableImage,
    collate,
    decode,
    find_samples,
    hold_out,
)
from alexkern.data.batch import Batch, Images
from support import fake_cuda
from support.tiny import CLASSES, write_images

# What there is


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p: p / "nothing", "nothing: no such folder or list file"),
        (lambda p: p, r"no images; wanted folders of images, .*/CLASS/IMAGE"),
        (lambda p: write_images(p, 2, ("one",)), "only one class, 'one'; wanted two or more"),
        (lambda p: _written(p / "l.txt", b"a.png\n"), "l.txt, line 1: wanted an image and its class, got 'a.png'"),
        (lambda p: _written(p / "l.txt", b"# nothing\n"), "no images"),
    ],
)
def test_what_cannot_be_trained_on(make, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        find_samples(make(tmp_path))
    assert "\n" not in str(caught.value)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_validation_has_the_training_classes(images: Path, tmp_path: Path) -> None:
    write_images(tmp_path, 1, ("red", "violet"))
    with pytest.raises(DataError, match="class 'violet' is not one of the 3 that are trained"):
        find_samples(tmp_path, CLASSES)
    (tmp_path / "violet").rename(tmp_path / "green")
    assert find_samples(tmp_path, CLASSES).labels == (1, 2)


def test_hold_out_takes_a_share_of_every_class(images: Path) -> None:
    samples = find_samples(images)
    kept, held = hold_out(samples, 0.2, seed=3)
    assert [held.labels.count(label) for label in range(3)] == [2, 2, 2]
    assert sorted((*kept.paths, *held.paths)) == sorted(samples.paths) and not set(kept.paths) & set(held.paths)
    assert hold_out(samples, 0.2, seed=3) == (kept, held) and hold_out(samples, 0.2, seed=4)[1] != held
    with pytest.raises(DataError, match="too few images to hold out 1% of them"):
        hold_out(samples, 0.01, seed=3)


# Decoding


def test_decoding_bounds_the_size(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 400, dtype=np.uint8)[None, :, None], (300, 400, 3))
    for name in ("a.jpg", "a.png", "a.webp", "a.bmp"):
        Image.fromarray(ramp).save(tmp_path / name)
        pixels = decode(tmp_path / name, 60)
        assert pixels.shape == (60, 80, 3) and pixels.dtype == torch.uint8
        assert (pixels[30, :, 0].float() - torch.linspace(0, 255, 80)).abs().max() < 8
        assert decode(tmp_path / name, 301).shape == (300, 400, 3)
    Image.fromarray(ramp[:2].repeat(9, axis=1)).save(tmp_path / "long.png")  # 2 x 3600
    assert decode(tmp_path / "long.png", 100).shape == (1, 400, 3)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


BAD = {
    "text.jpg": (lambda jpeg: b"Dear all,", "not an image"),
    "empty.png": (lambda jpeg: b"", "not an image"),
    "half.jpg": (lambda jpeg: jpeg[: len(jpeg) // 2], "cannot be read (.*truncated"),
    "hollow.png": (lambda jpeg: png(70, 70), "cannot be read"),
    "bomb.png": (lambda jpeg: png(30000, 30000), "too large, 900,000,000 pixels; wanted at most 89,478,485"),
    "large.png": (lambda jpeg: png(9600, 9600), "too large, 92,160,000 pixels; wanted at most 89,478,485"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_and_absurd_images_say_why(name: str, images: Path, tmp_path: Path) -> None:
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content((images / "red" / "1.jpg").read_bytes()))
    with pytest.raises(UnreadableImage, match=words.replace("(", r"\(")) as caught:
        decode(tmp_path / name, 64)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImage, match="cannot be read .*No such file"):
        decode(tmp_path / "nowhere.png", 64)


def test_an_image_may_have_so_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    monkeypatch.setattr(sys.modules["alexkern.data.decode"], "MAX_PIXELS", 12)
    assert decode(tmp_path / "a.png", 9).shape == (3, 4, 3)
    monkeypatch.setattr(sys.modules["alexkern.data.decode"], "MAX_PIXELS", 11)
    with pytest.raises(UnreadableImage, match="^too large, 12 pixels; wanted at most 11$"):
        decode(tmp_path / "a.png", 9)


def test_damage_is_said_once_and_has_a_limit() -> None:
    said: list[str] = []
    tally = DamageTally(2, said.append)
    tally.add([("a.png", "not an image"), ("b.png", "not an image")])
    tally.add([("a.png", "not an image")])
    assert said == ["a.png: not an image; left out", "b.png: not an image; left out"]
    with pytest.raises(DataError, match="3 images cannot be used, and --max-damaged is 2; the last: c.png: torn"):
        tally.add([("c.png", "torn")])


# Batches


def test_a_batch_is_padded_and_leaves_out_what_is_damaged(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.png").write_text("no image")
    listed = tmp_path / "list.txt"
    listed.write_text(f"{images}/red/0.png 1\n{tmp_path}/bad.png 0\n{images}/blue/3.jpg 2\n")
    source = Images(find_samples(listed), 80)
    batch = collate([source[index] for index in range(3)])
    assert batch.labels.tolist() == [1, 2] and batch.damaged == [(f"{tmp_path}/bad.png", "not an image")]
    assert batch.sizes.dtype == batch.labels.dtype == torch.int64
    for pixels, size, name in zip(batch.images, batch.sizes.tolist(), ("red/0.png", "blue/3.jpg"), strict=True):
        wanted = decode(images / name, 80)
        assert tuple(size) == tuple(wanted.shape[:2])
        assert torch.equal(pixels[: size[0], : size[1]], wanted) and not pixels[size[0] :].any()
        assert not pixels[:, size[1] :].any()
    with monkeypatch.context() as within_a_worker:
        within_a_worker.setattr("alexkern.data.batch.get_worker_info", object)
        shared, empty = collate([source[index] for index in range(3)]), collate([source[1]])
    assert shared.images.is_shared() and torch.equal(shared.images, batch.images) and empty.images.shape == (0, 1, 1, 3)
    nothing = collate([source[1]])
    assert len(nothing) == 0 and nothing.images.shape == (0, 1, 1, 3) and nothing.sizes.shape == (0, 2)


@pytest.mark.parametrize("count, batch, world", [(10, 4, 1), (23, 6, 2), (23, 6, 3), (5, 8, 4)])
def test_shares_of_a_batch_are_the_batch(count: int, batch: int, world: int) -> None:
    for epoch in (0, 1, 7):
        one = BatchOrder(count - count % world, batch, seed=3)
        one.count = count  # drawn alike, without the images that do not share out
        parts = [BatchOrder(count, batch, seed=3, rank=rank, world=world) for rank in range(world)]
        for order in (one, *parts):
            order.begin(epoch)
        batches = list(one)
        shared = list(zip(*parts, strict=True))
        assert len(shared) == parts[0].steps == len(parts[0])
        joined = [[index for part in step for index in part] for step in shared]
        flat = [index for step in batches for index in step]
        assert [index for step in joined for index in step] == flat[: count - count % world]
        assert all(len(part) == parts[0].share(number) for number, step in enumerate(shared) for part in step)


def test_no_epoch_of_one_seed_is_an_epoch_of_another() -> None:
    orders = set()
    for seed, epoch in itertools.product(range(4), range(4)):
        order = BatchOrder(9, 9, seed=seed)
        order.begin(epoch)
        orders.add(tuple(*order))
    assert len(orders) == 16


def test_an_epoch_has_its_own_order_and_can_be_entered_anywhere() -> None:
    order = BatchOrder(20, 6, seed=1)
    orders = []
    for epoch in range(3):
        order.begin(epoch)
        orders.append(list(order))
        assert sorted(index for batch in orders[-1] for index in batch) == list(range(20))
    assert orders[0] != orders[1] != orders[2]
    order.begin(1, 2)
    assert list(order) == orders[1][2:] and len(order) == 2
    plain = BatchOrder(5, 2, shuffle=False)
    assert list(plain) == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="multiple of 2 processes, got 3"):
        BatchOrder(5, 3, world=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_order_and_draws_nothing(workers: int, images: Path) -> None:
    samples = find_samples(images)
    order = BatchOrder(30, 8, seed=5)
    loader = Loader(samples, order, bound=64, workers=workers, device=torch.device("cpu"))
    before = torch.get_rng_state()
    for epoch, start in ((0, 0), (1, 2)):
        order.begin(epoch, start)
        wanted = list(order)
        assert loader.waiting == 0 or epoch
        found = list(loader)
        assert 0 < loader.waiting <= 1
        assert len(found) == len(wanted)
        for batch, indices in zip(found, wanted, strict=True):
            assert batch.labels.tolist() == [samples.labels[index] for index in indices]
            assert torch.equal(batch.images, collate([Images(samples, 64)[index] for index in indices]).images)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_is_copied_while_the_one_before_is_worked_on(
    count: int, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for torch.cuda."""
    log = fake_cuda.install(monkeypatch)
    monkeypatch.setattr(Batch, "to", lambda batch, device: log.append(f"copy to {device}") or batch)
    monkeypatch.setattr(Batch, "record_stream", lambda batch, stream: log.append(f"kept for {stream.name}"))
    loader = Loader(find_samples(images), BatchOrder(30, 8, seed=5), bound=64, workers=0, device=torch.device("cuda"))
    assert loader.loader.pin_memory and loader.stream.name == "side"
    batches = [Batch(*torch.zeros(3, number, 1), []) for number in range(count)]
    for number, batch in enumerate(loader._ahead(iter(batches))):
        assert batch is batches[number]
        log.append("worked on")
    copied = ["on side", "copy to cuda", "off side"]
    kept = ["current waits for side", "kept for current"]
    ahead = [*copied, "worked on", *kept] * (count - 1)
    assert log == ([*copied, *kept, *ahead, "worked on"] if count else [])
    here = Loader(find_samples(images), BatchOrder(30, 8), bound=64, workers=0, device=torch.device("cpu"), prefetch=3)
    assert not here.loader.pin_memory and here.stream is None and not here.loader.persistent_workers
    assert here.loader.prefetch_factor is None
    others = [Loader(here.loader.dataset.samples, here.order, bound=64, workers=2, device=here.device, **prefetch)
              for prefetch in ({}, {"prefetch": 3})]  # fmt: skip
    assert [other.loader.prefetch_factor for other in others] == [2, 3] and others[0].loader.persistent_workers


def test_a_batch_goes_to_a_device_and_is_kept_for_a_stream_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(*torch.zeros(3, 2, 1), [("a.png", "torn")])
    there = batch.to(torch.device("meta"))
    assert there.damaged == batch.damaged and len(there) == 2
    assert all(one.device.type == "meta" for one in (there.images, there.sizes, there.labels))
    kept: list[tuple[object, str]] = []
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append((tensor, stream)))
    batch.record_stream("a stream")  # type: ignore[arg-type]
    wanted = (batch.images, batch.sizes, batch.labels)
    assert [(id(tensor), stream) for tensor, stream in kept] == [(id(tensor), "a stream") for tensor in wanted]


@pytest.mark.gpu
def test_batches_are_copied_to_a_gpu_ahead(images: Path) -> None:
    samples = find_samples(images)
    loaders = [
        list(Loader(samples, BatchOrder(30, 8, seed=5), bound=64, workers=1, device=torch.device(device)))
        for device in ("cpu", "cuda")
    ]
    for here, there in zip(*loaders, strict=True):
        assert there.images.is_cuda and torch.equal(here.images, there.images.cpu())
        assert torch.equal(here.sizes, there.sizes.cpu()) and torch.equal(here.labels, there.labels.cpu())
