"""As much of SVG as the pictures need: shapes and text on a white ground, written by hand."""

from __future__ import annotations

from xml.sax.saxutils import escape

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
INK, MUTED, GRID = "#1f2328", "#59636e", "#d8dee4"


class Drawing:
    """A canvas of `width` x `height` pixels; the origin is its upper left corner."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height = width, height
        self._title = title
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, fill: str, *, radius: float = 2) -> None:
        self._add("rect", x=x, y=y, width=max(width, 0.5), height=height, rx=radius, fill=fill)

    def line(
        self, x1: float, y1: float, x2: float, y2: float, stroke: str, *, width: float = 1, dashes: str = ""
    ) -> None:
        extra = {"stroke_dasharray": dashes} if dashes else {}
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width, **extra)

    def path(self, points: list[tuple[float, float]], stroke: str, *, width: float = 2, dashes: str = "") -> None:
        extra = {"stroke_dasharray": dashes} if dashes else {}
        corners = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._add(
            "polyline", points=corners, fill="none", stroke=stroke, stroke_width=width, stroke_linejoin="round", **extra
        )

    def dot(self, x: float, y: float, fill: str, *, radius: float = 3.5) -> None:
        self._add("circle", cx=x, cy=y, r=radius, fill=fill)

    def text(
        self, x: float, y: float, text: str, *, size: float = 12, fill: str = INK, anchor: str = "start",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """Text whose baseline is at y. anchor: "start", "middle" or "end", the point of it that is at x."""
        weight = {"font_weight": 600} if bold else {}
        self._add("text", text, x=x, y=y, font_size=size, fill=fill, text_anchor=anchor, **weight)

    def _add(self, tag: str, content: str = "", /, **attributes: str | float) -> None:
        written = " ".join(f'{name.replace("_", "-")}="{_number(value)}"' for name, value in attributes.items())
        end = f">{escape(content)}</{tag}>" if content else "/>"
        self._parts.append(f"<{tag} {written}{end}")

    def __str__(self) -> str:
        size = f'width="{_number(self.width)}" height="{_number(self.height)}"'
        view = f'viewBox="0 0 {_number(self.width)} {_number(self.height)}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} font-family="{FONT}" role="img">'
        ground = f'<rect width="100%" height="100%" fill="#ffffff" stroke="{GRID}" rx="6"/>'
        return "\n".join([head, f"<title>{escape(self._title)}</title>", ground, *self._parts, "</svg>", ""])


def _number(value: str | float) -> str:
    """A number without digits that nobody sees; text as an attribute's value."""
    if isinstance(value, str):
        return escape(value, {'"': "&quot;"})
    return f"{value:.1f}".rstrip("0").rstrip(".")
