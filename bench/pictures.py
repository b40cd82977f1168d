"""A record's pictures: how close every layer comes to the limit, throughput over batch size, and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from alexkern.bench.comparison import MB
from alexkern.bench.record import Entry, Measured, Record
from alexkern.bench.rows import number
from alexkern.drawing import blank
from alexkern.ops.registry import OPERATORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A colour-blind eye, too, tells each from every other.
LIMIT = "#c45709"
OURS = ("#272f53", "#00c9ff", "#5b84ff", "#3379a9", "#5236fe", "#0e0134")
PEERS = {
    "torch": "#c6d4d4",
    "torch channels_last": "#959595",
    "torchvision": "#393c3e",
    "torch.cudnn_convolution_relu": "#00886a",
    "cudnn-frontend graph": "#23613f",
    "torch.compile": "#dc9600",
    "torch.compile frozen": "#692900",
    "torch.compile contiguous": "#f5da9b",
    "torch.compile CUDA graphs": "#d19d7a",
    "torch.compile max-autotune": "#f3e000",
    "onnxruntime": "#d889c2",
    "openvino": "#6c299b",
    "tensorrt": "#795272",
}
OTHER = "#afb8c1"
MARKERS = "osD^v<>pPX*hd"
US_BELOW = 1e-3  # seconds: shorter times are written in us
WIDTH, ROW = 9.2, 0.12  # inches: of a picture, and the height of a bar or of a row of the legend
ACROSS = 4  # names in a row of the legend
# Bars in groups: the place of each group's first bar, and every bar's variant, length and text.
Groups = Sequence[tuple[float, Sequence[tuple[str, float, str]]]]


def colors(entries: Iterable[Entry]) -> dict[str, str]:
    """A colour for each variant: blue is ours."""
    found: dict[str, str] = {}
    for variant in (variant for entry in entries for variant in _measured(entry)):
        if variant.name not in found:
            number_of_ours = sum(color in OURS for color in found.values())
            own = OURS[number_of_ours % len(OURS)]
            found[variant.name] = own if variant.ours else PEERS.get(variant.name, OTHER)
    return found


def layers(record: Record, arithmetic: str, model: str) -> Figure | None:
    """The share of the limit that every variant reaches on each layer; None where the record has no layers."""
    plots = {
        title: [entry for entry in select(record, arithmetic, model, direction) if entry.floor and _measured(entry)]
        for direction, title in (
            ("forward", "forward (longer is better)"),
            ("forward+backward", "forward + backward"),
        )
    }
    every = sorted((entry for entries in plots.values() for entry in entries), key=_place)
    if not every:
        return None
    # Groups side by side are of the same height: that of the one with more bars.
    heights: dict[tuple[str, str], int] = {}
    for entry in every:
        heights[_layer(entry)] = max(heights.get(_layer(entry), 0), len(_measured(entry)))
    places, names, end = {}, {}, 0.0
    for operator, found in groupby(heights, key=lambda layer: layer[0]):
        names[end] = operator
        end += 1.5
        for layer in found:
            places[layer] = end
            names[end + (heights[layer] - 1) / 2] = layer[1]
            end += heights[layer] + 1
    palette = colors(every)
    heading = f"How close each layer comes to the limit: {model}, {arithmetic}, batch {_batch(every[0])}"
    figure = _figure(record, heading, ROW * (end + math.ceil((len(palette) + 1) / ACROSS)) + 1)
    both = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (title, entries) in zip(both, plots.items(), strict=True):
        bars = [[(one.name, _share(entry, one), _time(one)) for one in _measured(entry)] for entry in entries]
        _bars(axes, [(places[_layer(entry)], found) for entry, found in zip(entries, bars, strict=True)], palette)
        axes.axvline(1, color=LIMIT, label="the limit: 100%")
        axes.set_title(title, loc="left", fontweight="bold")
    _names(both[0], names, end)
    both[0].xaxis.set_major_formatter("{x:.0%}")
    both[0].set_xlim(0, 1.25 * max(1.0, *(_share(entry, one) for entry in every for one in _measured(entry))))
    _legend(figure)
    return figure


def throughput(record: Record, arithmetic: str, model: str) -> Figure | None:
    """Images a second over the batch size of inference; None below two batches."""
    found = select(record, arithmetic, model, "inference")
    entries = sorted((entry for entry in found if entry.images and _measured(entry)), key=_batch)
    batches = list(map(_batch, entries))
    if len(batches) < 2:
        return None
    palette = colors(entries)
    lines = {
        name: [(_batch(entry), entry.images / one.median) for entry in entries for one in _measured(entry)
               if one.name == name]
        for name in palette
    }  # fmt: skip
    limit = [(_batch(entry), entry.images / entry.floor) for entry in entries if entry.floor]
    figure = _figure(record, f"Inference, images per second over batch size: {model}, {arithmetic}", 4.4)
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    if limit:
        axes.plot(*zip(*limit, strict=True), color=LIMIT, linestyle="--", label="the limit")
    # Ours on top, and in the legend as their ends are: the highest first.
    for name in sorted(lines, key=lambda name: -lines[name][-1][1]):
        ours, marker = palette[name] in OURS, MARKERS[list(palette).index(name) % len(MARKERS)]
        style = {"linewidth": 2, "markersize": 5, "zorder": 3} if ours else {"linewidth": 1.4, "markersize": 4}
        axes.plot(*zip(*lines[name], strict=True), color=palette[name], marker=marker, label=name, **style)
    axes.set_xticks(batches, list(map(str, batches)))
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("images in a batch")
    rates = [rate for line in (limit, *lines.values()) for _, rate in line]
    axes.set_ylim(min(rates) / 1.5, max(rates) * 1.5)
    axes.locator_params(axis="y", subs=(1, 2, 5))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_minor_formatter("")
    figure.legend(loc="outside right upper")
    return figure


def memory(record: Record, arithmetic: str, model: str) -> Figure | None:
    """The peak memory of a training step over its batch size; None where the record has none."""
    entries = [entry for entry in select(record, arithmetic, model, "peak memory") if _measured(entry)]
    if not entries:
        return None
    entries.sort(key=_batch)
    palette = colors(entries)
    bars = [
        [(one.name, one.median * MB.scale, number(one.median, MB)) for one in _measured(entry)] for entry in entries
    ]
    *places, end = accumulate((len(found) + 1 for found in bars), initial=0.0)
    heading = f"Peak memory of a training step, beside parameters and images: {model}, {arithmetic}"
    figure = _figure(record, heading, ROW * (end + math.ceil(len(palette) / ACROSS)) + 0.9)
    axes = figure.subplots()
    _bars(axes, list(zip(places, bars, strict=True)), palette)
    middles = [place + (len(found) - 1) / 2 for place, found in zip(places, bars, strict=True)]
    _names(axes, dict(zip(middles, (f"batch {_batch(entry)}" for entry in entries), strict=True)), end)
    axes.xaxis.set_major_formatter("{x:,.10g} MB")
    axes.set_xlim(0, 1.1 * max(length for found in bars for _, length, _ in found))
    _legend(figure)
    return figure


def select(record: Record, arithmetic: str, model: str, direction: str) -> list[Entry]:
    """The record's entries of one kind, those of layers in the registry's order of operators."""
    return sorted(record.select(arithmetic, {"model": model, "pass": direction}), key=_place)


def _place(entry: Entry) -> int:
    names = [*OPERATORS, entry.labels.get("operator")]  # those of other versions come last
    return names.index(names[-1])


def _layer(entry: Entry) -> tuple[str, str]:
    return str(entry.labels["operator"]), str(entry.labels["layer"])


def _batch(entry: Entry) -> int:
    return int(entry.labels["batch"])


def _measured(entry: Entry) -> list[Measured]:
    return [variant for variant in entry.variants if variant.median]


def _share(entry: Entry, one: Measured) -> float:
    return entry.floor / one.median  # type: ignore[operator]


def _time(one: Measured) -> str:
    seconds = one.median or 0.0
    return f"{seconds * 1e6:.0f} us" if seconds < US_BELOW else f"{seconds * 1e3:.1f} ms"


def _figure(record: Record, heading: str, height: float) -> Figure:
    return blank(WIDTH, height, f"{heading}\n{record.device}, {record.date}, torch {record.machine['torch']}")


def _bars(axes: Axes, groups: Groups, palette: dict[str, str]) -> None:
    """Lying bars, a text behind each."""
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for name, color in palette.items():
        found = [
            (first + index, length, text)
            for first, bars in groups
            for index, (variant, length, text) in enumerate(bars)
            if variant == name
        ]
        if found:
            places, lengths, texts = zip(*found, strict=True)
            axes.bar_label(axes.barh(places, lengths, color=color, label=name), texts, padding=2, fontsize=6)


def _names(axes: Axes, names: dict[float, str], end: float) -> None:
    """What stands at the left of the bars, the first bar at the top."""
    axes.set_yticks(list(names), names.values())
    axes.set_ylim(end - 1, -1)
    for label in axes.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in OPERATORS else "normal")


def _legend(figure: Figure) -> None:
    """Each name once, although several axes have it."""
    both = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
    named = {label: handle for pairs in both for handle, label in pairs}
    figure.legend(named.values(), named, loc="outside lower left", ncols=ACROSS)
