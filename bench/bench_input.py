"""Files to batches for the network: decoded, the shorter side 256, the central 224 x 224, normalised.

The peers are what a script without a library writes, PIL and numpy, and torchvision's second transforms, each in a
DataLoader of as many workers as ours.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from alexkern.augmentation import IMAGENET_MEAN, IMAGENET_STD
from alexkern.bench.checks import check_close
from alexkern.bench.comparison import Comparison, Kind, Trial, Variant, compares, threads
from alexkern.bench.options import Options
from alexkern.data import BatchOrder, Loader, Samples
from alexkern.functional import augment
from alexkern.measure.timing import Call
from alexkern.optional import PEERS, why_missing

PHOTOGRAPHS, BATCH, SHAPE = 64, 16, (375, 500)  # ImageNet's usual size
WORKERS = min(2, os.cpu_count() or 1)
LEAST_S = 4.0  # checks, rounds, and workers that start
OURS, PIL_AND_NUMPY, TORCHVISION = "alexkern", "PIL and numpy", "torchvision v2"

Prepare = Callable[[Path], Tensor]


def inputs(options: Options) -> Iterable[Comparison]:
    if options.target.device.type != "cpu":
        return
    # CPU time is that of this process alone.
    for workers in (0,) if options.clock == "cpu" else (0, WORKERS):
        yield Comparison(
            kind=Kind.NETWORK,
            section="files to batches",
            what=f"{PHOTOGRAPHS} JPEG files of {SHAPE[1]} x {SHAPE[0]}, "
            + (f"{workers} workers" if workers else "one thread"),
            variants=(
                Variant(OURS, ours=True),
                Variant(PIL_AND_NUMPY),
                Variant(TORCHVISION, missing=lambda: why_missing("torchvision", PEERS)),
            ),
            setup=partial(_trial, workers),
            seconds=4.0,
            least_s=LEAST_S,
            images=PHOTOGRAPHS,
            every=True,
        )


def _trial(workers: int) -> Trial:
    folder = tempfile.TemporaryDirectory()  # it goes when the calls that hold it do
    paths = [Path(folder.name) / f"{number}.jpg" for number in range(PHOTOGRAPHS)]
    rng = np.random.default_rng(0)
    for path in paths:
        coarse = Image.fromarray(rng.integers(0, 256, size=(12, 16, 3), dtype=np.uint8))
        coarse.resize(SHAPE[::-1], Image.Resampling.BICUBIC).save(path, quality=90)

    def prepare(name: str) -> Call:
        makers = {OURS: _ours, PIL_AND_NUMPY: _pil_and_numpy, TORCHVISION: _torchvision}
        batches = makers[name](paths, workers)

        def call() -> Tensor:
            assert folder.name
            with ExitStack() as within:
                if not workers:
                    within.enter_context(threads(1))
                return torch.cat(list(batches()))

        return call

    def check(name: str, result: object) -> None:
        assert isinstance(result, Tensor)
        check_close([result], [torch.stack([_by_hand(path) for path in paths])])

    return Trial(prepare, check)


Batches = Callable[[], Iterable[Tensor]]


def _ours(paths: list[Path], workers: int) -> Batches:
    samples = Samples("", tuple(map(str, paths)), (0,) * len(paths), ("",))
    order = BatchOrder(len(paths), BATCH, shuffle=False)
    loader = Loader(samples, order, bound=384, workers=workers, device=torch.device("cpu"))

    def batches() -> Iterable[Tensor]:
        for batch in loader:
            yield augment(batch.images, 224, sizes=batch.sizes, crop="center", resize=256, flip=0.0)

    return batches


def _pil_and_numpy(paths: list[Path], workers: int) -> Batches:
    return _loaded(paths, workers, _by_hand)


def _torchvision(paths: list[Path], workers: int) -> Batches:
    from torchvision.transforms import v2

    steps = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    def prepared(path: Path) -> Tensor:
        with Image.open(path) as image:
            return steps(image.convert("RGB"))

    return _loaded(paths, workers, prepared)


def _by_hand(path: Path) -> Tensor:
    """PIL resizes uint8, numpy normalises."""
    with Image.open(path) as image:
        picture = image.convert("RGB").resize((256 * SHAPE[1] // SHAPE[0], 256), Image.Resampling.BILINEAR)
    left, top = round((picture.width - 224) / 2), 16
    pixels = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    return torch.from_numpy((pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)).permute(2, 0, 1)


class _Files(Dataset[Tensor]):
    def __init__(self, paths: list[Path], prepare: Prepare) -> None:
        self.paths, self.prepare = paths, prepare

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.prepare(self.paths[index])


def _loaded(paths: list[Path], workers: int, prepare: Prepare) -> Batches:
    loader: DataLoader[Tensor] = DataLoader(
        _Files(paths, prepare), batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: loader


bench_input = compares(inputs)
