"""How pictures are drawn: by matplotlib, without a display, as SVG that is the same bytes for the same numbers."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "alexkern",  # ids are random otherwise
    "text.parse_math": False,  # a dollar is a dollar
    "font.size": 8,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#d8dee4",
    "legend.frameon": False,
}


class NotDrawn(Exception):
    """matplotlib cannot be imported. The message is one line for the user."""


@contextmanager
def style() -> Iterator[None]:
    """Within the block figures can be made and written, in our style whatever the user's configuration says.

    Raises:
        NotDrawn: matplotlib is missing.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells at length that it builds a cache of fonts, and where
    try:
        try:
            import matplotlib.figure
        except Exception as error:  # a package that is there and broken raises whatever it likes
            said = " ".join(str(error).split())
            raise NotDrawn(f"the pictures are not drawn: {said} (pip install 'alexkern[pictures]')") from error
        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # the browser that shows the text has its own
            yield
    finally:
        log.setLevel(level)


def blank(width: float, height: float, heading: str) -> Figure:
    """An empty figure, in inches, under its heading. It is nowhere but here: not in pyplot's list."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    figure.suptitle(heading, x=0.01, horizontalalignment="left", fontsize=10)
    return figure


def svg(figure: Figure) -> str:
    """The file's text; the heading's first line is its title."""
    text = io.StringIO()
    title = figure.get_suptitle().partition("\n")[0]
    figure.savefig(text, format="svg", metadata={"Title": title, "Date": None})
    return text.getvalue()
