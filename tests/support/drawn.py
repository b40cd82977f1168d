"""A picture as lines of text: what is in it, where, and how it looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure


def numbers(of: Any) -> str:
    return " ".join(f"{float(one):.6g}" for one in of)


def lines(figure: Figure) -> Iterator[str]:
    heading = figure._suptitle
    yield f"{numbers(figure.get_size_inches())} {type(figure.get_layout_engine()).__name__}: {figure.get_suptitle()!r}"
    yield f"at {heading.get_position()[0]:g} {heading.get_ha()}, {heading.get_fontsize():g} points"
    for axes in figure.axes:
        yield from of_axes(axes)
    for legend in figure.legends:
        yield from of_legend(legend)


def of_axes(axes: Axes) -> Iterator[str]:
    for place in ("left", "center"):
        if title := axes.get_title(loc=place):
            yield f"axes {title!r} {place}"
    for name, axis, limits in (("x", axes.xaxis, axes.get_xlim()), ("y", axes.yaxis, axes.get_ylim())):
        lengths = [
            tick.tick1line.get_markersize() for tick in (*axis.get_major_ticks()[:1], *axis.get_minor_ticks()[:1])
        ]
        turned = [label.get_rotation() for label in axis.get_ticklabels()[:1]]
        grid = [line.get_visible() for line in axis.get_gridlines()[:1]]
        # Of ticks beyond the ends nothing is drawn, and matplotlib's releases have other ones.
        seen = [i for i, place in enumerate(axis.get_ticklocs()) if min(limits) <= place <= max(limits)]
        places = numbers(axis.get_ticklocs()[i] for i in seen)
        labels = [
            f"{label.get_text()!r}{'*' if label.get_fontweight() == 'bold' else ''}" for label in axis.get_ticklabels()
        ]
        told = " ".join(labels[i] for i in seen if labels)  # none where the axis is another's
        yield f" {name} {axis.get_label_text()!r} {axis.get_scale()} {numbers(limits)}, ticks {places}"
        yield f"  {told}, {numbers(lengths)} long, turned by {numbers(turned)}, grid {grid}"
    if bar := getattr(axes, "_colorbar", None):
        yield f" bar of colours, shrunk to {bar.ax._colorbar_info['shrink']:g}"
    for line in axes.lines:
        look = f"{to_hex(line.get_color())} {line.get_linestyle()} {line.get_linewidth():g} {line.get_marker()}"
        look += f" {line.get_markersize():g} every {line.get_markevery()} over {line.get_zorder():g}"
        yield f" line {line.get_label()}: {look}: {numbers(line.get_xdata())}, {numbers(line.get_ydata())}"
    for bars in axes.containers:
        yield f" bars {bars.get_label()} {to_hex(bars[0].get_facecolor())}"
        yield from (f"  {numbers((*bar.get_xy(), bar.get_width(), bar.get_height()))}" for bar in bars)
    for text in axes.texts:
        yield f" text {text.get_text()!r} {numbers((*text.xy, *text.get_position()))}, {text.get_fontsize():g} points"
    for image in axes.images:
        yield f" image {image.get_cmap().name} {numbers(image.get_clim())}: {numbers(image.get_array().flatten())}"
    if legend := axes.get_legend():
        yield from of_legend(legend)


def of_legend(legend: Any) -> Iterator[str]:
    names = [text.get_text() for text in legend.get_texts()]
    yield f"legend {legend._outside_loc} {legend._loc}, {legend._ncols} in a row: {', '.join(names)}"
