"""A run's record, and what is made of it: the page, the pictures, the comparison with another, README's part."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from alexkern import cli
from alexkern.bench import changes, history, pictures, readme, record, report, scales
from alexkern.bench.comparison import Kind
from support import bench_records

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def made() -> record.Record:
    return bench_records.record()


def test_what_is_read_is_what_was_written(made, tmp_path):
    path = record.write(made, tmp_path / "a" / "b")
    assert record.read(path) == record.read(path.parent) == made
    assert [path.name for path in path.parent.iterdir()] == ["record.json"]
    entry = next(one for one in json.loads(path.read_text())["entries"] if one["what"].startswith("conv2 forward"))
    assert entry["kind"] == "OPERATOR" and entry["labels"]["layer"] == "conv2" and entry["flops"] > 1e9


def test_a_failed_write_leaves_the_record_before_it(made, tmp_path, monkeypatch):
    path = record.write(made, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(record.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        record.write(dataclasses.replace(made, entries=()), tmp_path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_record_that_names_what_it_left_out_is_read(made, tmp_path):
    path = record.write(made, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"left_out": ["conv, conv1 forward"]}))
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


def test_the_page_has_every_number_and_every_reason(made, tmp_path):
    report.write(made, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("# A CPU & more, 2026-05-01\n")
    for entry in made.entries:
        ours, peer = entry.ours[0], entry.best_peer
        section = page.partition(f"## {entry.section}\n")[2].partition("\n## ")[0]
        (line,) = [line for line in section.splitlines() if line.startswith(f"| {entry.what} | ")]
        assert f"| {peer.name} | {peer.median / ours.median:.2f} |" in line
    share = made.entries[0].floor / made.entries[0].ours[0].median
    assert f" {share:.0%} |" in page
    absent = [entry for entry in made.entries if entry.variant("onnxruntime")]
    assert f"- onnxruntime, {len(absent)} comparisons: not installed (pip install onnx)" in page
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert (tmp_path / picture).is_file()
    assert "cut off" not in page
    partial = report.markdown(dataclasses.replace(made, complete=False), [])
    assert "this run was cut off" in partial


def test_the_row_of_convnet_benchmarks_stands_beside_its_history(made):
    lines = report.history(made)
    both = next(one for one in made.entries if one.what == "alexnet forward+backward, batch 128")
    forward = next(one for one in made.entries if one.what == "alexnet forward, batch 128")
    first, total = (1e3 * one.variant("alexkern").median for one in (forward, both))
    row = f"| alexkern, float32 | A CPU & more | 2026-05-01 | {total:.3g} | {first:.3g} | {total - first:.3g} |"
    assert row in lines
    assert f"| {both.best_peer.name}, float32 |" in "\n".join(lines)
    assert "| cuDNN R4, float16 | Titan X | 2016 | 71 | 25 | 46 |" in lines
    assert history.figures(dataclasses.replace(made, entries=(forward,))) == []


# the pictures


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_pictures_are_whole_svg_within_their_frame(made):
    drawn = report.draw(made)
    assert sorted(drawn) == [f"{name}-alexnet-float32.svg" for name in ("layers", "memory", "throughput")]
    for svg in drawn.values():
        root = ElementTree.fromstring(svg)
        width, height = float(root.get("width")), float(root.get("height"))
        for element in root.iter():
            if element.get("width") != "100%":
                for key, most in (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height)):
                    assert 0 <= float(element.get(key, 0)) <= most
        for bar in root.iter(f"{SVG}rect"):
            if bar.get("x"):
                assert float(bar.get("x")) + float(bar.get("width")) <= width
        assert any("A CPU & more, 2026-05-01" in text for text in texts(svg))


def test_bars_are_as_long_as_their_share_and_the_limit_is_drawn_at_all_of_it(made):
    root = ElementTree.fromstring(pictures.layers(made, "float32", "alexnet"))
    limits = [line for line in root.iter(f"{SVG}line") if line.get("stroke") == pictures.LIMIT]
    lines = sorted(float(line.get("x1")) for line in limits if float(line.get("y2")) - float(line.get("y1")) > 100)
    assert len(lines) == 2
    entries = pictures.select(made, "float32", "alexnet", "forward")
    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("height") == "9"]
    left = min(float(bar.get("x")) for bar in bars)
    mine = [bar for bar in bars if float(bar.get("x")) == left]
    wanted = [entry.floor / one.median for entry in entries for one in entry.variants if one.median]
    assert len(mine) == len(wanted) > 20
    for bar, share in zip(mine, wanted, strict=True):
        assert float(bar.get("width")) / (lines[0] - left) == pytest.approx(share, abs=0.002)
    layers = [
        text for text in texts(ElementTree.tostring(root, encoding="unicode")) if re.fullmatch("(conv|pool)\\d", text)
    ]
    assert layers == [*(f"conv{n}" for n in range(1, 6)), "conv1", "conv2", "conv5", "pool1", "pool2", "pool5"]


def test_throughput_rises_with_its_line_and_the_limit_lies_above(made):
    root = ElementTree.fromstring(pictures.throughput(made, "float32", "alexnet"))
    lines = {
        line.get("stroke"): [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in root.iter(f"{SVG}polyline")
    }
    limit = lines.pop(pictures.LIMIT)
    assert [x for x, _ in limit] == sorted({x for x, _ in limit}) and len(limit) == 3
    for line in lines.values():
        assert all(y > above for (_, y), (_, above) in zip(line, limit, strict=True))
    palette = pictures.colors(pictures.select(made, "float32", "alexnet", "inference"))
    entries = pictures.select(made, "float32", "alexnet", "inference")
    for name, color in palette.items():
        rates = [entry.images / entry.variant(name).median for entry in entries]
        heights = [y for _, y in lines[color]]
        assert [rates.index(rate) for rate in sorted(rates)] == [heights.index(y) for y in sorted(heights)[::-1]]


def test_a_record_without_measurements_has_no_pictures(made):
    assert report.draw(dataclasses.replace(made, entries=())) == {}
    lone = [one for one in made.entries if one.labels["pass"] == "inference"][:1]
    assert report.draw(dataclasses.replace(made, entries=tuple(lone))) == {}


def test_axes_have_round_steps_that_reach_the_end():
    for largest in (0.37, 1.0, 7.3, 42, 433, 99_999):
        steps = scales.round_steps(largest)
        assert steps[0] == 0 and steps[-2] < largest <= steps[-1] * 1.0001 and 3 <= len(steps) <= 11
    assert scales.decades([30, 140]) == [20, 50, 100, 200]
    assert scales.decades([10, 1000]) == [10, 20, 50, 100, 200, 500, 1000]


# what changed


def test_the_comparison_of_two_records_says_what_became_slower(made, tmp_path, capsys):
    slower = bench_records.record(slower=1.5)
    found = list(changes.changes(made, slower))
    ours = [change for change in found if change.after.ours]
    assert ours and all(change.ratio == pytest.approx(1 / 1.5) and not change.noisy for change in ours)
    assert all(change.ratio in (None, 1.0) for change in found if not change.after.ours)
    before, after = record.write(made, tmp_path / "a"), record.write(slower, tmp_path / "b")
    assert cli.main(["bench", "--compare", str(before), str(after.parent)]) == 0
    output = capsys.readouterr().out
    assert f"alexkern: 0 better, {len(ours)} worse" in output
    assert " 0.67" in output and max(map(len, output.splitlines())) <= changes.WIDTH


def test_a_change_within_the_spread_is_flagged_and_what_only_one_has_is_counted(made):
    slightly = bench_records.record(slower=1.005)
    slightly = dataclasses.replace(slightly, entries=slightly.entries[1:])
    timed = [change for change in changes.changes(made, slightly) if change.entry.kind is not Kind.COUNT]
    assert all(change.noisy for change in timed if change.after.median)
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
    text = shown()
    assert readme.NO_GPU in text and "**A CPU & more, 2026-05-01**" in text
    assert "| alexnet inference, batch 64 | " in text and "| conv3 forward+backward | " in text
    assert "](bench/results/cpu/layers-alexnet-float32.svg)" in text and "| cuDNN R4, float16 |" in text
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
    names = {path.name for path in (tmp_path / readme.RESULTS / "cpu").glob("*.svg")}
    assert {"layers-alexnet-bfloat16.svg", "layers-alexnet-float32.svg"} <= names
    block = readme.block(tmp_path)
    assert "layers-alexnet-bfloat16.svg" in block and "layers-alexnet-float32.svg" not in block


# the command


@pytest.mark.parametrize(
    ("arguments", "handed_on"),
    [
        (["--record", "out", "-k", "conv"], ["--record=out", "-k", "conv"]),
        (["--seconds=3", "--models", "all"], ["--seconds=3", "--models", "all"]),
        (["--help-run"], ["--help"]),
    ],
)
def test_a_run_is_pytests(arguments, handed_on, monkeypatch):
    seen = []
    module = type("run", (), {"main": staticmethod(lambda given: seen.append(given) or 0)})
    monkeypatch.setitem(sys.modules, "alexkern.bench.run", module)
    assert cli.main(["bench", *arguments]) == 0
    assert seen == [handed_on]


def test_what_is_no_run_takes_no_arguments_of_pytest(capsys, tmp_path):
    assert cli.main(["bench", "--readme", str(tmp_path / "README.md"), "-k", "conv"]) == 2
    assert "unrecognized arguments: -k conv" in capsys.readouterr().err
