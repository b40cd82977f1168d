"""`alexkern train`: a run from images to files, its parts against plain torch, one clear line for each bad input."""

from __future__ import annotations

import itertools
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from alexkern import cli
from alexkern.data import Batch, BatchOrder, Loader, collate, find_samples
from alexkern.data.batch import Images
from alexkern.drawing import style
from alexkern.functional import augment
from alexkern.models import MODELS, read_weights
from alexkern.training import PRESETS, Settings, Trainer, TrainingError, log, pictures, rehearsal
from alexkern.training.display import Display
from alexkern.training.evaluate import TEN_CROPS, Score, evaluate, probabilities
from alexkern.training.schedule import Schedule
from alexkern.training.settings import from_dict
from alexkern.training.step import Step
from alexkern.training.world import World
from support.pinned import hold
from support.tiny import CLASSES, OPTIONS, one_line, tiny, write_images

ALONE = World(0, 1, torch.device("cpu"))
SMALL = {"size": 63, "resize": 63, "batch_size": 6}


def batch_of(images: Path, count: int = 6) -> Batch:
    source = Images(find_samples(images), 80)
    return collate([source[index] for index in range(0, 30, 30 // count)])


# A run


def test_a_run_writes_its_files(run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    status, lines, errors = run(images, *OPTIONS, "--out", out)
    assert (status, errors) == (0, [])
    assert lines[0].startswith("alexnet: 24 images of 3 classes, 6 for validation; 1 x cpu")
    assert [line.partition(":")[0] for line in lines[1:3]] == ["epoch 1/2", "epoch 2/2"]
    assert all("; validation loss " in line and ", top-5 100.0%; " in line for line in lines[1:3])
    assert lines[3].startswith(f"{out}/model.safetensors written")
    files = {path.name for path in out.iterdir()}
    names = {"checkpoint.pt", "previous.pt", "log.csv", "model.safetensors", "curves.svg", "filters.png", "classes.txt"}
    assert files == names
    rows = log.read(out / "log.csv")
    assert [(row.epoch, row.step, row.images, row.damaged) for row in rows] == [(1, 4, 24, 0), (2, 8, 48, 0)]
    weights = read_weights(out / "model.safetensors")
    assert (out / "classes.txt").read_text() == "blue\ngreen\nred\n"
    assert all(0 < row.waiting < 1 for row in rows)
    assert weights.classes == CLASSES and weights.transforms is not None and weights.transforms.crop_size == 63
    assert (out / "curves.svg").read_text().endswith("</svg>\n")
    assert Image.open(out / "filters.png").size == (4 * (3 * 12 + 1), 4 * (3 * 12 + 1))


def test_what_it_learns_is_classified(run, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = (*OPTIONS, "--epochs", 10, "--learning-rate", 0.05, "--dropout", 0, "--std", 0.1, 0.1, 0.1)
    status, lines, _ = run(images, *options, "--out", tmp_path)
    assert status == 0 and float(re.search(r"validation loss [\d.]+, top-1 ([\d.]+)%", lines[-2])[1]) == 100
    unseen = write_images(tmp_path / "unseen", 2, seed=5)
    assert cli.main(["classify", str(unseen), "--weights", str(tmp_path / "model.safetensors"), "--top", "1"]) == 0
    found = re.findall(r"│\s+[\d.]+% │ (\w+)", capsys.readouterr().out)
    assert found == [name for name in CLASSES for _ in range(2)]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_network_trains(name: str, images: Path) -> None:
    settings = Settings(model=name, **SMALL, learning_rate=0.001, label_smoothing=0.1, clip=1.0)
    torch.manual_seed(0)
    model = MODELS[name](num_classes=3)
    step = Step(model, settings, ALONE)
    before = [parameter.detach().flatten()[:50].clone() for parameter in model.parameters()]
    step(batch_of(images), 1, 0, 0.001)
    assert step.bad_step() is None and step.sums[2] == 6
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert not torch.equal(parameter.detach().flatten()[:50], old)
        assert math.isfinite(parameter.grad.norm().item())


def test_folders_train_and_val_and_a_list(run, images: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train", 3)
    write_images(tmp_path / "data" / "val", 2)
    (tmp_path / "data" / "train" / "red" / "notes.txt").write_text("no image")
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{images}/{name}/{number}.png {name}\n" for name in CLASSES for number in (0, 2)))
    few = (*OPTIONS, "--epochs", 1)
    status, lines, errors = run(tmp_path / "data", *few, "--out", tmp_path / "a")
    assert status == 0 and lines[0].startswith("alexnet: 9 images of 3 classes, 6 for validation")
    left = tmp_path / "data" / "train" / "red" / "notes.txt"
    assert errors == [f"alexkern train: {left}: not named as an image; left out"]
    status, lines, errors = run(listed, *few, "--val", images, "--out", tmp_path / "b")
    assert (status, errors) == (0, []) and lines[0].startswith("alexnet: 6 images of 3 classes, 30 for validation")


def test_the_bar_has_loss_speed_and_time_left(run, images: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, lines, errors = run(images, *OPTIONS, "--out", tmp_path)
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", "\n".join(errors))
    assert re.search(r"epoch 2.*8/8.*loss [\d.]+, \d+ images/s.*0:00:0", plain)
    assert sum(line.startswith("epoch ") for line in lines) == 2


# The parts


def test_a_step_is_torchs(images: Path) -> None:
    """SGD with momentum, weight decay, label smoothing and clipping, written out with torch's own modules."""
    settings = Settings(**SMALL, label_smoothing=0.1, clip=0.05, flip=0.5, brightness=0.3, dropout=0.0)
    torch.manual_seed(1)
    model, twin = tiny(num_classes=3, dropout=0.0), tiny(num_classes=3, dropout=0.0)
    twin.load_state_dict(model.state_dict())
    step, batch = Step(model, settings, ALONE), batch_of(images)
    theirs = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    losses, norms = 0.0, []
    for number in range(3):
        rate = 0.1 / (number + 1)
        step(batch, number + 1, 6 * number, rate)
        seed = torch.tensor([0x616C6578, 16 * 6 * number])
        options = {"crop": "random_resized", "scale": (0.08, 1.0), "flip": 0.5, "brightness": 0.3}
        pixels = augment(batch.images, 63, sizes=batch.sizes, seed=seed, **options)
        twin.zero_grad()
        logits = nn.Sequential(*twin.features, twin.avgpool, nn.Flatten(), *twin.classifier)(pixels)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(twin.parameters(), 0.05).item())
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        losses += 6 * loss.item()
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)
    assert min(norms) > 0.1, "clipping has to bite"
    assert step.sums.tolist() == pytest.approx([losses, step.sums[1].item(), 18], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_mixed_precision_keeps_float32_weights(precision: str, optimizer: str, images: Path) -> None:
    settings = Settings(**SMALL, precision=precision, optimizer=optimizer, dropout=0.0, clip=0.05)
    torch.manual_seed(1)
    exact, model = tiny(num_classes=3, dropout=0.0), tiny(num_classes=3, dropout=0.0)
    model.load_state_dict(exact.state_dict())
    before = nn.utils.parameters_to_vector(exact.parameters()).detach().clone()
    steps = [Step(exact, Settings(**SMALL, optimizer=optimizer, dropout=0.0, clip=0.05), ALONE)]
    steps.append(Step(model, settings, ALONE))
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    for step in steps:
        step(batch_of(images), 1, 0, 1.0 if optimizer == "sgd" else 1e-3)
    assert seen == [getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[precision])]
    assert steps[1].scaler.is_enabled() == (precision == "fp16")
    atol = 2.5e-3 if optimizer == "adamw" else 1e-4
    torch.testing.assert_close(model.state_dict(), exact.state_dict(), rtol=0.02, atol=atol)  # float32 in both
    if optimizer == "sgd":  # whose step is as long as the clipped gradient
        moved, wanted = (nn.utils.parameters_to_vector(m.parameters()) - before for m in (model, exact))
        assert 0.04 < wanted.norm() < 0.1 and (moved - wanted).norm() < 0.05 * wanted.norm()


def test_a_batch_of_damaged_images_is_a_step_without_gradient(images: Path) -> None:
    step = Step(tiny(num_classes=3), Settings(**SMALL, weight_decay=0.0), ALONE)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    step(collate([(None, 0, "a", "torn")]), 1, 0, 0.1)
    assert step.bad_step() is None and step.sums.tolist() == [0, 0, 0]
    assert all(torch.equal(a, b) for a, b in zip(step.model.parameters(), before, strict=True))


def schedule(steps: int = 10, **settings: object) -> Schedule:
    return Schedule(Settings(learning_rate=0.8, **settings), steps)


def test_schedules() -> None:
    assert {schedule(schedule="constant").rate(step) for step in range(50)} == {0.8}
    steps = schedule(schedule="step", decay_every=2, decay=0.1)
    assert [steps.rate(10 * epoch + 9) for epoch in range(5)] == pytest.approx([0.8, 0.8, 0.08, 0.08, 0.008])
    cosine = schedule(schedule="cosine", epochs=4, warmup=1.5)
    assert [cosine.rate(step) for step in (0, 7, 14)] == pytest.approx([0.8 / 15, 0.8 * 8 / 15, 0.8])
    middle = 15 + 25 / 2
    assert cosine.rate(15) == 0.8 and cosine.rate(middle) == pytest.approx(0.4)
    assert 0 < cosine.rate(39) < 0.01 and all(cosine.rate(s) > cosine.rate(s + 1) for s in range(15, 39))


def test_plateau_decays_when_the_error_stops_falling_and_three_times_at_most() -> None:
    plateau = schedule(schedule="plateau", patience=2, decay=0.5, max_decays=2)
    rates = []
    for error in (0.9, 0.8, 0.8, 0.85, 0.7, 0.71, 0.7, 0.9, 0.9, 0.9, 0.9):
        plateau.see(error)
        rates.append(plateau.rate(0) / 0.8)
    assert rates == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]
    again = schedule(schedule="plateau", patience=2, decay=0.5, max_decays=2)
    again.load(plateau.state())
    assert again.state() == plateau.state()


def test_the_papers_recipe() -> None:
    """Its images are those of [0, 255] less the mean, not divided by a deviation."""
    settings = from_dict(PRESETS["krizhevsky2012"])
    white = torch.full((1, 256, 256, 3), 255, dtype=torch.uint8)
    pixels = augment(white, **settings.augmentation | {"lighting": 0.0})
    wanted = torch.tensor([255 * (1 - mean) for mean in settings.mean]).view(1, 3, 1, 1)
    torch.testing.assert_close(pixels, wanted.expand_as(pixels))


def test_recipes_are_what_they_were() -> None:
    hold("recipes", (f"{name}, {key}: {value}" for name, recipe in PRESETS.items() for key, value in recipe.items()))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_images_are_augmented_alike_whoever_trains_on_them(
    precision: str, dtype: torch.dtype, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a key of the run's seed and their number in it, which no version may change."""
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("alexkern.training.step.augment", lambda images, **how: asked.append(how) or images)
    settings = Settings(**SMALL, seed=5, precision=precision, flip=0.25)
    batch = batch_of(images)
    step = Step(tiny(num_classes=3), settings, ALONE)
    assert step.pictures(batch, 7) is batch.images
    (how,) = asked
    assert how.pop("seed").tolist() == [5 + 0x616C6578, 16 * 7] and how.pop("sizes") is batch.sizes
    assert how.pop("dtype") == dtype and how == settings.augmentation and how["flip"] == 0.25


def test_evaluation(images: Path) -> None:
    """Against torch's own modules, image by image; an image that cannot be read does not count."""
    torch.manual_seed(3)
    model, settings = tiny(num_classes=3, dropout=0.5), Settings(**SMALL)
    samples = find_samples(images)
    broken = images.parent / "broken.png"
    broken.write_text("no image")
    samples = type(samples)(samples.source, (*samples.paths, str(broken)), (*samples.labels, 0), samples.classes)
    loader = Loader(samples, BatchOrder(31, 6, shuffle=False), bound=80, workers=0, device=ALONE.device)
    damaged: list[tuple[str, str]] = []
    score = evaluate(model, loader, settings, ALONE, damaged.extend)
    assert damaged == [(str(broken), "not an image")] and model.training
    plain = nn.Sequential(*model.features, model.avgpool, nn.Flatten(), *model.classifier).eval()
    source, losses, right = Images(samples, 80), [], 0
    with torch.no_grad():
        for index in range(30):
            pixels, label, _, _ = source[index]
            logits = plain(augment([torch.tensor(pixels)], 63, crop="center", resize=63, flip=0.0))
            losses.append(F.cross_entropy(logits, torch.tensor([label])).item())
            right += int(logits.argmax()) == label
    model.train()
    assert score.loss == pytest.approx(sum(losses) / 30, rel=1e-4)
    assert (score.top1, score.top5) == (right / 30, 1.0)
    empty = Loader(samples.select([]), BatchOrder(0, 6, shuffle=False), bound=80, workers=0, device=ALONE.device)
    assert math.isnan(evaluate(model, empty, settings, ALONE, damaged.extend).top1)
    assert math.isnan(Score().loss)


def test_ten_crops_are_the_papers(images: Path) -> None:
    assert len(set(TEN_CROPS)) == 10
    torch.manual_seed(3)
    model, batch = tiny(num_classes=3).eval(), batch_of(images)
    settings = Settings(size=63, resize=72, ten_crops=True)
    with torch.no_grad():
        found = probabilities(model, batch, settings)
        whole = augment(batch.images, 72, sizes=batch.sizes, crop="center", resize=72, flip=0.0)
        total = torch.zeros(6, 3)
        crops = [whole[:, :, top : top + 63, left : left + 63] for top in (0, 9) for left in (0, 9)]
        crops.append(augment(batch.images, 63, sizes=batch.sizes, crop="center", resize=72, flip=0.0))
        for crop in crops:
            total += model(crop).softmax(dim=1) + model(crop.flip(3)).softmax(dim=1)
    # A square is centred in the resized image to half a pixel, which "center" and the others round each by itself.
    even = (batch.sizes.amax(dim=1) * 72 // batch.sizes.amin(dim=1)) % 2 == 0
    assert even.any()
    torch.testing.assert_close(found[even], (total / 10)[even], rtol=1e-4, atol=1e-5)


def test_pictures_of_filters(tmp_path: Path) -> None:
    model = tiny(num_classes=3)
    with torch.no_grad():
        model.features[0].weight.fill_(0.5)
        model.features[0].weight[4, 2, 3, 5] = -1.0
    pictures.filters(model, tmp_path / "f.png", scale=1)
    picture = Image.open(tmp_path / "f.png").convert("RGB")
    assert picture.size == (37, 37)  # 3 x 3 filters of 11 pixels, 1 between them
    assert picture.getpixel((13 + 5, 13 + 3)) == (255, 255, 0)  # filter 4 is in the middle; its blue is lowest there
    assert picture.getpixel((13 + 5, 13 + 4)) == (255, 255, 255)


def row(epoch: int, **values: float) -> log.Row:
    numbers = {field: values.get(field, 0.0) for field in log.COLUMNS}
    return log.Row(**numbers | {"epoch": epoch})  # type: ignore[arg-type]


def test_curves_show_the_logs_numbers() -> None:
    losses, right = [2.5, math.nan, 0.25], [0.125, 0.5, 1.0]
    rows = [row(n + 1, train_loss=losses[n], val_loss=3.0, train_top1=right[n], val_top1=math.nan) for n in range(3)]
    loss, top1 = pictures.curves(rows).axes
    shown = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in (loss, top1)]
    assert shown[0] == {"training": [[1, 2.5], [3, 0.25]], "validation": [[1, 3], [2, 3], [3, 3]]}
    assert shown[1] == {"training": [[1, 0.125], [2, 0.5], [3, 1]]}
    assert loss.get_ylim()[0] == 0 and loss.get_ylim()[1] > 3 and top1.get_ylim() == (0, 1)
    for count in (1, 2, 90):
        axes = pictures.curves([row(n + 1, train_loss=1.0) for n in range(count)]).axes[0]
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) for tick in ticks)


def test_curves_look_as_is_pinned() -> None:
    from support import drawn

    rows = [row(n, train_loss=3.0 - n, val_loss=3.5 - n, train_top1=0.25 * n, val_top1=0.2 * n) for n in range(1, 4)]
    with style():
        hold("curves", drawn.lines(pictures.curves(rows)))


def test_curves_are_drawn_later_too(run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib was missing at the end of a run, and of one that was killed, with its last row cut short."""
    with monkeypatch.context() as absent:
        absent.setenv("FORCE_COLOR", "1")
        absent.setitem(sys.modules, "matplotlib", None)
        status, lines, errors = run(images, *OPTIONS, "--epochs", 1, "--out", tmp_path, "--quiet")
        assert (status, lines) == (0, []) and len(errors) == 1  # a quiet run has warnings alone
        assert errors[0].endswith(f"(pip install 'alexkern[pictures]'); later: alexkern train --curves {tmp_path}")
        assert (tmp_path / "filters.png").is_file() and not (tmp_path / "curves.svg").exists()
        assert "matplotlib" in one_line(run("--curves", tmp_path))
    with open(tmp_path / "log.csv", "ab") as file:
        file.write(b"2,8,\xff\n")
    assert run("--curves", tmp_path) == (0, [f"{tmp_path}/curves.svg"], [])
    drawn = (tmp_path / "curves.svg").read_bytes()
    assert run("--curves", tmp_path)[0] == 0 and (tmp_path / "curves.svg").read_bytes() == drawn
    assert f"--curves {images}: wanted a run's folder" in one_line(run("--curves", images))


# Bad input


def test_data_that_cannot_be_trained_on(run, images: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "other", 2, ("red", "violet"))
    for data, words in (
        ((tmp_path / "nowhere",), "no such folder or list file"),
        ((images, "--val", tmp_path / "other"), "class 'violet' is not one of the 3"),
    ):
        assert words in one_line(run(*data, *OPTIONS, "--out", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_unreadable_images_are_named_up_to_a_limit(run, tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", 6)
    for number in (0, 1, 3):
        (data / "red" / f"bad{number}.png").write_text("no image")
    (data / "blue" / "half.jpg").write_bytes((data / "blue" / "1.jpg").read_bytes()[:900])
    options = (*OPTIONS, "--epochs", 3, "--out")
    status, _, errors = run(data, *options, tmp_path / "a", "--max-damaged", 4)
    assert status == 0 and len(errors) == 4
    assert sum("not an image; left out" in line for line in errors) == 3
    assert sum("half.jpg: cannot be read (" in line for line in errors) == 1
    assert log.read(tmp_path / "a" / "log.csv")[-1].damaged == 4
    status, _, errors = run(data, *options, tmp_path / "b", "--max-damaged", 3)
    assert status == 2 and len(errors) == 4
    assert re.search(
        r"4 images cannot be used, and --max-damaged is 3; the last: .*: (not an image|cannot)", errors[-1]
    )


@pytest.mark.parametrize(
    "options, words",
    [
        (("--size", 80), "--resize: wanted at least --size, 80, got 63"),
        (("--device", "toaster"), "--device toaster: "),
        (("--device", "cuda:77"), "--device cuda:77: "),
        (("--graph",), "--graph: wanted one process on a GPU"),
        (("--resume",), "no checkpoint to resume from"),
        (("--resume", "no.pt"), "no.pt: no such checkpoint"),
    ],
)
def test_bad_options(options: tuple, words: str, run, images: Path, tmp_path: Path) -> None:
    assert words in one_line(run(images, *OPTIONS, "--out", tmp_path, *options))


def test_a_folder_that_has_a_run_is_not_overwritten(run, images: Path, tmp_path: Path) -> None:
    assert run(images, *OPTIONS, "--epochs", 1, "--out", tmp_path)[0] == 0
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert "has a checkpoint; go on from it with --resume" in one_line(run(images, *OPTIONS, "--out", tmp_path))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_settings_say_what_is_wrong() -> None:
    with pytest.raises(TrainingError, match="--precision: wanted one of fp32, bf16, fp16, got 'int8'"):
        Settings(precision="int8")
    with pytest.raises(TrainingError, match="--hue: wanted a number from 0 to 0.5, got nan"):
        Settings(hue=math.nan)
    with pytest.raises(TrainingError, match="--std: wanted a number from 1e-06 to 1,000, got 0.0"):
        Settings(std=(0.2, 0.0, 0.2))


def test_what_is_said_of_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    line = {"train_loss": 1.23456, "train_top1": 0.2566, "images_per_second": 123.6, "waiting": 0.123}
    bare = "epoch 3/9: loss 1.2346, top-1 25.7%"
    rate = "; 124 images/s, 12% of the time waiting for images\n"
    Display().epoch(row(3, **line, val_loss=math.nan), 9)
    assert capsys.readouterr().out == bare + rate
    Display().epoch(row(3, **line, val_loss=2.0, val_top1=0.5, val_top5=1.0), 9)
    assert capsys.readouterr().out == f"{bare}; validation loss 2.0000, top-1 50.0%, top-5 100.0%{rate}"


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_who_says_what(quiet: bool, silent: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A quiet run has warnings, one of a process that does not lead has nothing."""
    display = Display(quiet=quiet, silent=silent)
    display.say("a\x1bb")
    display.warn("c\nd")
    display.step(1, 2, 3.0, 4.0)  # outside of a bar
    found = capsys.readouterr()
    assert found.out == ("" if quiet or silent else "a?b\n")
    assert found.err == ("" if silent else "alexkern train: c?d\n")
    assert not display.live


def test_what_the_bar_is_told(run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch, the step of the run, the epoch's mean loss so far and its images a second."""
    told = []
    monkeypatch.setattr(Display, "live", True)
    monkeypatch.setattr(Display, "step", lambda self, *values: told.append(values))
    clock = itertools.count()  # looked at when an epoch begins, and twice behind each step
    monkeypatch.setattr("alexkern.training.trainer.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert run(images, *OPTIONS, "--out", tmp_path)[0] == 0
    epochs, steps, losses, rates = zip(*told, strict=True)
    assert (epochs, steps, set(rates)) == ((1,) * 4 + (2,) * 4, tuple(range(1, 9)), {6 / 2})
    rows = log.read(tmp_path / "log.csv")
    assert [losses[3], losses[7]] == pytest.approx([row.train_loss for row in rows], rel=1e-5)


def test_memory_that_a_run_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(1024, 1024, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    asked = []
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 9 * 2**20)
    usage = type("Usage", (), {"ru_maxrss": 3 * 2**10})
    monkeypatch.setattr("resource.getrusage", lambda _: usage)
    for device, most in (("cuda", "9 MiB on the GPU"), ("cpu", "3 MiB of this process, torch's code included")):
        words = f"memory: 1,048,576 parameters, with gradients and optimizer {{}}.0 MiB; at most {most}"
        model.weight.grad = None
        optimizer.state.clear()
        assert rehearsal._memory(model, optimizer, torch.device(device)) == words.format(4)
        model(torch.ones(1, 1024)).sum().backward()
        optimizer.step()
        assert rehearsal._memory(model, optimizer, torch.device(device)) == words.format(12)
    shapes = rehearsal._shapes(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(1).bfloat16(), torch.zeros(4, 5))
    assert shapes == "pixels (2, 3) uint8, images (1,) bfloat16, logits (4, 5) float32"
    assert asked == [torch.device("cuda")] * 2


@pytest.mark.parametrize(
    ("device", "size", "precision", "refused"),
    [
        ("cuda", 1, "fp32", False), ("cuda", 1, "bf16", False), ("cuda", 1, "fp16", True), ("cuda", 2, "fp32", True),
        ("cpu", 1, "fp32", True),
    ],
)  # fmt: skip
def test_a_graph_wants_one_process_on_a_gpu(device: str, size: int, precision: str, refused: bool) -> None:
    settings, world = Settings(precision=precision), World(0, size, torch.device(device))
    words = "^--graph: wanted one process on a GPU, and --precision fp32 or bf16$"
    begun = pytest.raises(AttributeError, match="classes")  # of the samples, that are none here
    with pytest.raises(TrainingError, match=words) if refused else begun:
        Trainer(settings, None, None, Path(), world, Display(), graphed=True)
    with begun:
        Trainer(settings, None, None, Path(), world, Display())
