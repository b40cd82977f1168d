"""A run's record, and what is made of it: the page, the pictures, the comparison with another, README's part."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy
import pytest
from matplotlib.colors import to_rgb
from skimage import color

from alexkern import cli
from alexkern.bench import changes, history, pictures, readme, record, report
from alexkern.bench.comparison import Failure, Kind
from alexkern.bench.session import Run
from alexkern.bench.summary import render
from alexkern.drawing import style, svg
from alexkern.measure.timing import Samples
from support import bench_records
from support.drawn import lines as drawn_lines
from support.pinned import hold

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def made() -> record.Record:
    return bench_records.record()


@pytest.fixture(scope="module")
def drawn(made) -> dict[str, str]:
    return report.draw(made)


def test_what_is_read_is_what_was_written(made, tmp_path):
    path = record.write(made, tmp_path / "a" / "b")
    assert record.read(path) == record.read(path.parent) == made
    assert [path.name for path in path.parent.iterdir()] == ["record.json"]
    entry = next(one for one in json.loads(path.read_text())["entries"] if one["what"].startswith("conv2 forward"))
    assert entry["kind"] == "OPERATOR" and entry["labels"]["layer"] == "conv2" and entry["flops"] > 1e9


def test_a_failed_write_leaves_the_record_before_it(made, tmp_path, monkeypatch):
    path = record.write(made, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        record.write(dataclasses.replace(made, entries=()), tmp_path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_record_of_another_version_is_read(made, tmp_path):
    """One that names what it left out, and no kernels."""
    path = record.write(made, tmp_path)
    content = json.loads(path.read_text()) | {"left_out": ["conv, conv1 forward"]}
    for variant in (one for entry in content["entries"] for one in entry["variants"]):
        del variant["kernel"]
    path.write_text(json.dumps(content))
    assert record.read(path) == made


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "entries": [{}]}'])
def test_what_is_no_record_is_one_clear_line(content, tmp_path, capsys):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="no record of a benchmark"):
        record.read(path)
    assert cli.main(["bench", "--compare", str(path), str(path)]) == 2
    assert cli.main(["bench", "--report", str(tmp_path / "nowhere")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and str(path) in errors[0] and "cannot be read" in errors[1]


# the page


@pytest.fixture(scope="module")
def few(made) -> record.Record:
    """An entry of each kind, one with kernels, and one that failed; one beside a peer that is level, two alone."""
    passes = {"forward", "forward+backward", "inference", "training step", "peak memory", *map(
        "convnet-benchmarks {}".format, history.PASSES)}  # fmt: skip
    chosen = {(one.labels["pass"], one.labels.get("operator")): one for one in made.entries[::-1]}
    entries = [one for one in made.entries if one in chosen.values() and one.labels["pass"] in passes]
    ours, *others = entries[0].variants
    level = dataclasses.replace(others[0], median=ours.median, lower=ours.lower, upper=ours.upper)
    entries[0] = dataclasses.replace(entries[0], variants=(ours, level, *others[1:]))
    places = {one.labels.get("operator"): index for index, one in enumerate(entries)}
    at = places["max_pool2d"]
    ours, *others = entries[at].variants
    ours = dataclasses.replace(ours, kernel="max_pool2d forward, NHWC | avx2", latency=2e-3, graph=True)
    others[0] = dataclasses.replace(others[0], latency=3e-3)
    entries[at] = dataclasses.replace(entries[at], variants=(ours, *others))
    at = places["conv2d_relu"]
    failed = record.Measured("alexkern", True, failure="RuntimeError: [no] way")
    entries[at] = dataclasses.replace(entries[at], variants=(failed, *entries[at].variants[1:]))
    both = {"alexkern": None, "torch": None}
    overhead = bench_records.comparison(Kind.OVERHEAD, "host overhead per call", "conv, grad", **both)
    took = {"alexkern": Samples((25e-6,) * 7), "torch": Samples((20.5e-6,) * 7)}
    entries.append(record.entry(overhead, took, None))
    for what in ("conv2 forward", "conv3 forward"):
        ours = Samples((0.5,) * 7, latency=(3e-3, 9e-3, 4e-3), graph=True, kernel="conv, avx512")
        found = {"alexkern": ours, "torch": Failure("RuntimeError: [nothing] works")}
        entries.append(record.entry(bench_records.comparison(what=what, **both), found, None))
    ceilings = made.ceilings | {"bfloat16": {"flops": 7.9e14, "bytes": 4.3e12}}
    machine = made.machine | {"load": "it was busy"}
    return dataclasses.replace(made, entries=tuple(entries), ceilings=ceilings, machine=machine)


def test_what_is_made_of_a_record_reads_as_is_pinned(few, tmp_path):
    few = record.read(record.write(few, tmp_path))
    slower = dataclasses.replace(few, entries=tuple(bench_records.record(slower=1.5).entries))
    report.write(few, tmp_path / "bench" / "results" / "cpu")
    report.illustrate(few, tmp_path / "bench" / "results" / "cpu")
    text = {
        "page": (tmp_path / "bench" / "results" / "cpu" / "README.md").read_text(),
        "cut off": report.markdown(dataclasses.replace(few, complete=False, entries=few.entries[:1]), ()),
        "summary": render(few.entries, few.ceilings, "the end [of it]"),
        "summary in colours": render(few.entries[:5], {}, "", color=True),
        "changes": changes.render(few, slower),
        "changes in colours": changes.render(slower, few, color=True),
        "readme": readme.block(tmp_path),
    }
    for name, found in text.items():
        hold(name, found.splitlines())


# the pictures


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def entry_of(made: record.Record, direction: str, **changes: object) -> record.Entry:
    return dataclasses.replace(pictures.select(made, "float32", "alexnet", direction)[0], **changes)


def test_pictures_are_svg_whose_text_is_text(drawn):
    assert sorted(drawn) == [f"{name}-alexnet-float32.svg" for name in ("layers", "memory", "throughput")]
    for text in drawn.values():
        assert text.endswith("</svg>\n") and text.count("<title>") == 1 and "<dc:date>" not in text
        assert "A CPU & more, 2026-05-01, torch 2.13.0" in texts(text)
        assert {"alexkern", "torch", "torch channels_last"} <= set(texts(text))


def test_pictures_of_one_record_are_the_same_bytes_whatever_the_user_has_configured(made, drawn):
    log = logging.getLogger("matplotlib")
    before = dict(matplotlib.rcParams), log.level
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert report.draw(made) == drawn
        assert matplotlib.rcParams["font.size"] == 20
    assert (dict(matplotlib.rcParams), log.level) == before


@pytest.mark.parametrize("picture", list(report.PICTURES.values()))
def test_a_crowded_picture_stays_within_its_frame(made, picture):
    """Every peer that there is, on a machine with a long name."""
    names = ["alexkern", "alexkern frozen", *pictures.PEERS]
    variants = tuple(record.Measured(name, index < 2, 1e-3 * (index + 1)) for index, name in enumerate(names))
    entries = [dataclasses.replace(one, variants=variants, floor=one.floor and 5e-4) for one in made.entries]
    machine = made.machine | {"gpu": "NVIDIA RTX 6000 Ada <&> $with_a$ longer name", "torch": "2.13.0+cu130"}
    with style():
        figure = picture(dataclasses.replace(made, machine=machine, entries=tuple(entries)), "float32", "alexnet")
        shown = texts(svg(figure))
        box = figure.get_tightbbox()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.get_figwidth() and box.y1 <= figure.get_figheight()
    assert set(names) <= set(shown) and any("<&> $with_a$ longer" in text for text in shown)
    for axes in figure.axes:
        assert {side for side, spine in axes.spines.items() if spine.get_visible()} == {"left", "bottom"}
        assert axes.get_axisbelow() is True and all(line.get_visible() for line in axes.get_xgridlines())
        assert all(max(line.get_xdata()) < axes.get_xlim()[1] for line in axes.lines)


@pytest.mark.parametrize("name", report.PICTURES)
def test_a_picture_looks_as_is_pinned(made, name, tmp_path):
    """Of a record that was read: no name is the same object as another. What failed is not drawn, where others are."""
    names = ["alexkern", "alexkern frozen", *pictures.PEERS, "a stranger"]
    variants = tuple(record.Measured(one, index < 2, 3e-4 * (index + 1)) for index, one in enumerate(names))
    broken = record.Measured("alexkern", True, failure="out of memory")
    entries = {(one.labels["pass"], one.labels["batch"], one.labels.get("layer")): one for one in made.entries}
    entries = [one for one in entries.values() if one.labels.get("layer", "conv1") in ("conv1", "pool2")]
    sizes = tuple(dataclasses.replace(one, median=1e12 * one.median) for one in variants)
    few = {"forward": variants[::5], "forward+backward": variants[:2], "peak memory": (broken, *sizes[1:4])}
    entries = [dataclasses.replace(one, variants=few.get(one.labels["pass"], variants)) for one in entries[::-1]]
    for place, one in enumerate(entries):
        if one.labels["batch"] == 16 or (one.labels["pass"], one.labels.get("layer")) == ("forward", "pool2"):
            entries[place] = dataclasses.replace(one, variants=(broken, *one.variants[1:]))
    (small,) = (one for one in entries if one.labels["pass"] == "peak memory")
    entries.insert(0, dataclasses.replace(small, labels=small.labels | {"batch": 64}, variants=sizes[2:4]))
    stored = record.read(record.write(dataclasses.replace(made, entries=tuple(entries)), tmp_path))
    with style():
        figure = report.PICTURES[name](stored, "float32", "alexnet")
        hold(name, drawn_lines(figure))


def test_the_style_is_what_is_pinned():
    with style():
        own = {key: value for key, value in matplotlib.rcParams.items() if value != matplotlib.rcParamsDefault[key]}
    own = {key: value for key, value in own.items() if not key.startswith("backend")}
    assert own == {
        "svg.fonttype": "none", "svg.hashsalt": "alexkern", "text.parse_math": False, "font.size": 8,
        "font.sans-serif": ["DejaVu Sans"], "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
        "axes.spines.right": False, "grid.color": "#d8dee4", "legend.frameon": False,
    }  # fmt: skip


def test_times_from_a_millisecond_on_are_written_in_them():
    times = [pictures._time(record.Measured("", True, seconds)) for seconds in (None, 9.994e-4, 1e-3, 2.26e-2)]
    assert times == ["0 us", "999 us", "1.0 ms", "22.6 ms"]


def test_a_record_without_measurements_has_no_pictures(made):
    assert report.draw(dataclasses.replace(made, entries=())) == {}
    one_batch, two = pictures.select(made, "float32", "alexnet", "inference")[:2]
    assert report.draw(dataclasses.replace(made, entries=(one_batch, two))).keys() == {"throughput-alexnet-float32.svg"}
    no_floor = entry_of(made, "forward", floor=None)
    broken = (record.Measured("alexkern", True, failure="broken"),)
    failed = [entry_of(made, direction, variants=broken) for direction in ("forward", "peak memory")]
    assert report.draw(dataclasses.replace(made, entries=(one_batch, no_floor, *failed))) == {}


def test_colours_differ_for_colour_blind_eyes_too():
    """By CIEDE2000, as seen without red or green cones: Machado, Oliveira and Fernandes (2009), severity 1."""
    eyes = numpy.array([
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ])  # fmt: skip
    names = [pictures.LIMIT, *pictures.OURS, *pictures.PEERS.values()]
    coded = numpy.array([to_rgb(name) for name in names])
    linear = numpy.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    for eye in eyes:
        seen = numpy.clip(linear @ eye.T, 0, 1)
        lab = color.rgb2lab(numpy.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055))
        apart = color.deltaE_ciede2000(lab[:, None], lab[None]) + 100 * numpy.eye(len(names))
        assert apart.min() > 10, divmod(int(apart.argmin()), len(names))
        assert lab[:, 0].max() < 90  # the ground is white


# without matplotlib


def test_nothing_imports_matplotlib_before_it_draws_or_dynamo_before_it_compiles():
    late = {"matplotlib", "torch._dynamo", "alexkern.compiler"}
    script = f"import sys, alexkern.cli, alexkern.bench.session; sys.exit(len({late} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0


@pytest.fixture
def finished(made, tmp_path) -> Run:
    """A run with a record to write, that measured everything."""
    run = Run(bench_records.options(record=tmp_path))
    run.ceilings["float32"] = bench_records.CEILINGS
    for comparison in bench_records.comparisons(run.options):
        run.comparisons[comparison.group] = comparison
        run.outcomes[comparison.group] = bench_records.results(comparison)
    return run


def test_a_run_draws_its_pictures_when_all_is_measured(finished, drawn, tmp_path):
    finished._save()
    assert {path.name for path in tmp_path.iterdir()} == {"record.json", "README.md"}
    assert f"the run was cut off; later: alexkern bench --report {tmp_path}" in finished.summary()
    assert "\x1b" not in finished.summary() and "\x1b" in finished.summary(color=True)
    finished.finish()
    assert {path.name for path in tmp_path.glob("*.svg")} == drawn.keys()
    assert "not drawn" not in finished.summary() and ".svg)" in (tmp_path / "README.md").read_text()


def test_without_matplotlib_a_run_leaves_a_record_that_is_drawn_later(finished, drawn, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as absent:
        absent.setitem(sys.modules, "matplotlib", None)
        finished.finish()
        (line,) = [line for line in finished.summary().splitlines() if "not drawn" in line]
        assert "(pip install 'alexkern[pictures]')" in line and line.endswith(f"alexkern bench --report {tmp_path}")
        assert record.read(tmp_path).complete and ".svg" not in (tmp_path / "README.md").read_text()
        assert cli.main(["bench", "--report", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "matplotlib" in line and "(pip install 'alexkern[pictures]')" in line
    assert not list(tmp_path.glob("*.svg"))
    assert cli.main(["bench", "--report", str(tmp_path)]) == 0
    for name in drawn:
        assert (tmp_path / name).read_text().endswith("</svg>\n")
        assert f"]({name})" in (tmp_path / "README.md").read_text()


# what changed


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("no_color", ["", "1"])
def test_two_records_are_compared_in_colours_on_a_terminal_that_has_them(
    terminal, no_color, made, tmp_path, monkeypatch, capsys
):
    slower = bench_records.record(slower=1.5)
    before, after = record.write(made, tmp_path / "a"), record.write(slower, tmp_path / "b")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert cli.main(["bench", "--compare", str(before), str(after.parent)]) == 0
    output, coloured = capsys.readouterr().out, terminal and not no_color
    assert output == changes.render(made, slower, color=coloured) and ("\x1b[1m" in output) is coloured


def test_a_change_within_the_spread_is_flagged_and_what_only_one_has_is_counted(made):
    slightly = bench_records.record(slower=1.005)
    slightly = dataclasses.replace(slightly, entries=slightly.entries[1:])
    timed = [change for change in changes.changes(made, slightly) if change.entry.kind is not Kind.COUNT]
    assert all(change.noisy for change in timed if change.ours.median)
    text = changes.render(made, slightly)
    assert "only before: 1 comparisons" in text and "alexkern: 0 better, 2 worse" in text  # counts are exact


# README


DOCUMENT = "# House\n\n<!-- bench:begin -->\nold\n<!-- bench:end -->\n\nfurther\n"


def test_readme_shows_the_newest_gpu_record_and_says_where_there_is_none(made, tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT)
    results = tmp_path / "bench" / "results"

    def shown() -> str:
        assert cli.main(["bench", "--readme", str(document)]) == 0
        text = document.read_text()
        assert text.startswith("# House\n\n<!-- bench:begin -->\n") and text.endswith("<!-- bench:end -->\n\nfurther\n")
        assert "old" not in text
        return text

    assert readme.NO_GPU in shown()
    report.write(made, results / "cpu")
    assert ".svg" not in shown()
    report.illustrate(made, results / "cpu")
    text = shown()
    assert readme.NO_GPU in text and "**A CPU & more, 2026-05-01**" in text
    for date, gpu in (("2026-03-01", "NVIDIA H200"), ("2025-03-01", "NVIDIA A100")):
        one = bench_records.record(machine={"gpu": gpu, "date": date, "cuda": "13.0"})
        report.write(one, results / gpu.lower().replace(" ", "-"))
    text = shown()
    assert "**NVIDIA H200, 2026-03-01**" in text and "A100" not in text and "A CPU" not in text
    assert readme.NO_GPU not in text
    assert shown() == text

    document.write_text("# House\n")
    assert cli.main(["bench", "--readme", str(document)]) == 2
    assert "has no line <!-- bench:begin -->" in capsys.readouterr().err


def test_the_repositorys_own_readme_shows_its_records():
    assert readme.block(ROOT) in (ROOT / "README.md").read_text()


def test_a_record_of_several_arithmetics_has_pictures_of_each_and_readme_the_first(tmp_path):
    both = bench_records.record(targets=(bench_records.HALF, bench_records.CPU))
    report.write(both, tmp_path / readme.RESULTS / "cpu")
    report.illustrate(both, tmp_path / readme.RESULTS / "cpu")
    names = {path.name for path in (tmp_path / readme.RESULTS / "cpu").glob("*.svg")}
    assert {"layers-alexnet-bfloat16.svg", "layers-alexnet-float32.svg"} <= names
    block = readme.block(tmp_path)
    assert "layers-alexnet-bfloat16.svg" in block and "layers-alexnet-float32.svg" not in block


# the command


@pytest.mark.parametrize(
    ("arguments", "handed_on"),
    [
        (["--record", "out", "-k", "a and not b"], ["--record=out", "-k", "a and not b"]),
        (["--benchmark-json", "out.json", "-q", "--co"], ["--benchmark-json", "out.json", "-q", "--co"]),
        (["--seconds=3", "--models", "all"], ["--seconds=3", "--models", "all"]),
        (["--help-run"], ["--help"]),
    ],
)
def test_a_run_is_pytests(arguments, handed_on, monkeypatch):
    seen = []
    module = SimpleNamespace(main=lambda given: seen.append(given) or 5)
    monkeypatch.setitem(sys.modules, "alexkern.bench.run", module)
    assert cli.main(["bench", *arguments]) == 5
    assert seen == [handed_on]


def test_what_is_no_run_takes_no_arguments_of_pytest(capsys, tmp_path):
    assert cli.main(["bench", "--readme", str(tmp_path / "README.md"), "-k", "conv"]) == 2
    assert "unrecognized arguments: -k conv" in capsys.readouterr().err
