"""A record's pictures: how close every layer comes to the limit, throughput over batch size, and memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from alexkern.bench.comparison import MB
from alexkern.bench.record import Entry, Measured, Record
from alexkern.bench.rows import number
from alexkern.bench.scales import decades, round_steps
from alexkern.bench.svg import GRID, INK, MUTED, Drawing

WIDTH = 920
LIMIT = "#cf222e"
OURS = ("#0550ae", "#54aeff", "#218bff", "#80ccff")
PEERS = {
    "torch": "#c8d1da",
    "torch channels_last": "#818b98",
    "torchvision": "#57606a",
    "torch.cudnn_convolution_relu": "#2da44e",
    "cudnn-frontend graph": "#116329",
    "torch.compile": "#d4a72c",
    "torch.compile frozen": "#9a6700",
    "torch.compile contiguous": "#eac54f",
    "torch.compile CUDA graphs": "#bf8700",
    "torch.compile max-autotune": "#7d4e00",
    "onnxruntime": "#8250df",
    "openvino": "#c297ff",
    "tensorrt": "#bf3989",
}
OTHER = "#afb8c1"
ORDER = ("conv2d_relu", "conv2d_relu_max_pool2d", "max_pool2d", "linear_relu_dropout", "local_response_norm", "dropout")
US_BELOW = 1e-3  # seconds: shorter times are written in us


def colors(entries: Iterable[Entry]) -> dict[str, str]:
    """A colour for each variant: blue is ours."""
    found: dict[str, str] = {}
    for variant in (variant for entry in entries for variant in entry.variants if variant.median is not None):
        if variant.name not in found:
            number_of_ours = sum(color in OURS for color in found.values())
            own = OURS[number_of_ours % len(OURS)]
            found[variant.name] = own if variant.ours else PEERS.get(variant.name, OTHER)
    return found


def layers(record: Record, arithmetic: str, model: str) -> str | None:
    """The share of the limit that every variant reaches on each layer; None where the record has no layers."""
    panels = [
        [entry for entry in select(record, arithmetic, model, direction) if entry.floor]
        for direction in ("forward", "forward+backward")
    ]
    every = [entry for panel in panels for entry in panel]
    if not every:
        return None
    palette = colors(every)
    bar, gap, left = 11, 12, 190
    # Groups side by side are of the same height: that of the one with more bars.
    keys = list(dict.fromkeys(_layer_of(entry) for entry in every))
    heights = {key: bar * max(len(_measured(entry)) for entry in every if _layer_of(entry) == key) for key in keys}
    operators = list(dict.fromkeys(operator for operator, _ in keys))
    legend = _legend_rows(palette)
    top = 84 + 18 * legend
    height = top + sum(heights.values()) + gap * len(keys) + 22 * len(operators) + 40
    drawing = Drawing(WIDTH, height, f"{model}, {arithmetic}: share of the limit by layer")
    batch = every[0].labels["batch"]
    _heading(drawing, f"How close each layer comes to the limit: {model}, {arithmetic}, batch {batch}", record)
    _legend(drawing, palette, 66, limit="the limit: 100%")
    half = (WIDTH - left - 24) / 2
    for index, (panel, heading) in enumerate(
        zip(panels, ("forward (longer is better)", "forward + backward"), strict=True)
    ):
        x = left + index * (half + 12)
        width = half - 58  # for the times behind the bars
        most = max([1.0, *(entry.floor / one.median for entry in panel for one in _measured(entry))])  # type: ignore
        axis = [step for step in round_steps(most, 4) if step <= most * 1.001]
        scale = width / most
        drawing.text(x, top - 8, heading, bold=True)
        for step in axis:
            drawing.line(x + step * scale, top, x + step * scale, height - 34, GRID)
            drawing.text(x + step * scale, height - 18, f"{step:.0%}", size=11, fill=MUTED, anchor="middle")
        found = {_layer_of(entry): entry for entry in panel}
        y = top
        for operator in operators:
            if index == 0:
                drawing.text(14, y + 14, operator, bold=True)
            y += 22
            for key in [key for key in keys if key[0] == operator]:
                if index == 0:
                    drawing.text(left - 10, y + heights[key] / 2 + 4, key[1], anchor="end")
                entry = found.get(key)
                for place, one in enumerate(_measured(entry) if entry else []):
                    share = entry.floor / one.median  # type: ignore[operator, union-attr]
                    drawing.rect(x, y + place * bar, share * scale, bar - 2, palette[one.name])
                    drawing.text(x + share * scale + 4, y + place * bar + 8, _time(one), size=9, fill=MUTED)
                y += heights[key] + gap
        drawing.line(x + scale, top - 2, x + scale, height - 34, LIMIT, width=2)
    return str(drawing)


def throughput(record: Record, arithmetic: str, model: str) -> str | None:
    """Images a second over the batch size of inference; None below two batches."""
    entries = select(record, arithmetic, model, "inference")
    entries = sorted((entry for entry in entries if _measured(entry)), key=lambda entry: int(entry.labels["batch"]))
    batches = [int(entry.labels["batch"]) for entry in entries]
    if len(batches) < 2:
        return None
    palette = colors(entries)
    lines = {
        name: [
            (int(entry.labels["batch"]), entry.images / one.median)
            for entry in entries
            if (one := entry.variant(name)) and one.median and entry.images
        ]
        for name in palette
    }
    limit = [(batch, entry.images / entry.floor) for batch, entry in zip(batches, entries, strict=True)
             if entry.floor and entry.images]  # fmt: skip
    values = [value for line in [*lines.values(), limit] for _, value in line]
    left, right, top, bottom = 78, WIDTH - 220, 76, 400
    drawing = Drawing(WIDTH, 446, f"{model}, {arithmetic}: images per second over batch size")
    _heading(drawing, f"Inference, images per second over batch size: {model}, {arithmetic}", record)
    steps = decades(values)
    low, high = math.log(steps[0]), math.log(steps[-1])

    def place(batch: float, value: float) -> tuple[float, float]:
        across = math.log2(batch / batches[0]) / math.log2(batches[-1] / batches[0])
        return left + across * (right - left), bottom - (math.log(value) - low) / (high - low) * (bottom - top)

    for step in steps:
        y = place(batches[0], step)[1]
        drawing.line(left, y, right, y, GRID)
        drawing.text(left - 8, y + 4, f"{step:,.0f}", size=11, fill=MUTED, anchor="end")
    for batch in batches:
        x = place(batch, steps[0])[0]
        drawing.line(x, bottom, x, bottom + 5, MUTED)
        drawing.text(x, bottom + 20, str(batch), size=11, fill=MUTED, anchor="middle")
    drawing.text((left + right) / 2, bottom + 38, "images in a batch", size=11, fill=MUTED, anchor="middle")
    ends = []
    if limit:
        points = [place(*point) for point in limit]
        drawing.path(points, LIMIT, width=1.5, dashes="6 4")
        ends.append((points[-1], "the limit", LIMIT))
    # Ours last, so that they lie on top.
    for name in sorted(lines, key=lambda name: palette[name] in OURS):
        points = [place(*point) for point in lines[name]]
        drawing.path(points, palette[name], width=2.5 if palette[name] in OURS else 1.8)
        for point in points:
            drawing.dot(*point, palette[name], radius=3.5 if palette[name] in OURS else 2.5)
        if points:
            ends.append((points[-1], name, palette[name]))
    _labels(drawing, ends, right + 14, top, bottom)
    return str(drawing)


def memory(record: Record, arithmetic: str, model: str) -> str | None:
    """The peak memory of a training step over its batch size; None where the record has none."""
    entries = [entry for entry in select(record, arithmetic, model, "peak memory") if _measured(entry)]
    if not entries:
        return None
    entries.sort(key=lambda entry: int(entry.labels["batch"]))
    palette = colors(entries)
    bar, gap, left = 16, 14, 110
    legend = _legend_rows(palette)
    top = 72 + 18 * legend
    height = top + sum(bar * len(_measured(entry)) + gap for entry in entries) + 40
    drawing = Drawing(WIDTH, height, f"{model}, {arithmetic}: peak memory of a training step")
    _heading(drawing, f"Peak memory of a training step, beside parameters and images: {model}, {arithmetic}", record)
    _legend(drawing, palette, 66)
    axis = round_steps(max(one.median for entry in entries for one in _measured(entry)) * MB.scale, 5)  # type: ignore
    scale = (WIDTH - left - 110) / axis[-1]
    for step in axis:
        drawing.line(left + step * scale, top, left + step * scale, height - 34, GRID)
        drawing.text(left + step * scale, height - 18, f"{step:,.0f} MB", size=11, fill=MUTED, anchor="middle")
    y = top + gap / 2
    for entry in entries:
        found = _measured(entry)
        drawing.text(left - 12, y + bar * len(found) / 2 + 4, f"batch {entry.labels['batch']}", anchor="end")
        for one in found:
            length = (one.median or 0.0) * MB.scale * scale
            drawing.rect(left, y, length, bar - 3, palette[one.name])
            drawing.text(left + length + 5, y + bar - 6, number(one.median or 0.0, MB), size=10, fill=MUTED)
            y += bar
        y += gap
    return str(drawing)


def select(record: Record, arithmetic: str, model: str, direction: str) -> list[Entry]:
    """The record's entries of one kind, those of layers in the order of ORDER."""
    wanted = {"model": model, "pass": direction}
    found = [
        entry
        for entry in record.entries
        if entry.arithmetic == arithmetic and all(entry.labels.get(key) == value for key, value in wanted.items())
    ]
    return sorted(
        found, key=lambda entry: ORDER.index(str(entry.labels["operator"])) if "operator" in entry.labels else 0
    )


def _layer_of(entry: Entry) -> tuple[str, str]:
    return str(entry.labels["operator"]), str(entry.labels["layer"])


def _measured(entry: Entry) -> list[Measured]:
    return [variant for variant in entry.variants if variant.median]


def _time(one: Measured) -> str:
    seconds = one.median or 0.0
    return f"{seconds * 1e6:.0f} us" if seconds < US_BELOW else f"{seconds * 1e3:.1f} ms"


def _heading(drawing: Drawing, heading: str, record: Record) -> None:
    drawing.text(14, 28, heading, size=16, bold=True)
    drawing.text(14, 46, f"{record.device}, {record.date}, torch {record.machine['torch']}", size=12, fill=MUTED)


def _legend_rows(palette: dict[str, str]) -> int:
    return math.ceil((len(palette) + 1) / 4)


def _legend(drawing: Drawing, palette: dict[str, str], y: float, limit: str = "") -> None:
    """Four names a row."""
    for index, (name, color) in enumerate([*palette.items(), *([(limit, LIMIT)] if limit else [])]):
        x, row = 14 + index % 4 * 222, index // 4
        if color == LIMIT:
            drawing.line(x + 5, y + 18 * row - 2, x + 5, y + 18 * row + 10, LIMIT, width=2)
        else:
            drawing.rect(x, y + 18 * row, 10, 10, color)
        drawing.text(x + 16, y + 18 * row + 9, name, fill=INK)


def _labels(
    drawing: Drawing, ends: Sequence[tuple[tuple[float, float], str, str]], x: float, top: float, bottom: float
) -> None:
    """Names beside the ends of lines, moved apart where they would lie over each other."""
    ordered = sorted(ends, key=lambda end: end[0][1])
    heights = [end[0][1] + 4 for end in ordered]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + 15)
    overhang = max(0.0, (heights[-1] if heights else 0.0) - bottom - 20)
    for (_, name, color), y in zip(ordered, heights, strict=True):
        drawing.rect(x, y - overhang - 9, 10, 10, color)
        drawing.text(x + 16, y - overhang, name)
