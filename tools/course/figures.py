"""Drawing for the pages: charts, heat maps and diagrams as SVG files, with no library."""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from unrolled.insight.plot import label, ticks

INK = "#0f172a"
SOFT = "#64748b"
GRID = "#e2e8f0"
COLOURS = {
    "none": "#94a3b8",
    "rnn": "#dc2626",
    "gru": "#d97706",
    "lstm": "#2563eb",
    "mingru": "#9333ea",
    "attention": "#059669",
}
FONT = (
    "system-ui, 'Noto Sans KR', 'Noto Sans CJK KR', 'Apple SD Gothic Neo', sans-serif"
)
SHADES = 24  # colours of a heat map

Points = Sequence[tuple[float, float]]


class Picture:
    """A sheet in pixels that parts are put on, and its text as SVG."""

    def __init__(self, width: int, height: int, title: str, note: str = "") -> None:
        self.width = width
        self.height = height
        self.title = title
        self.parts: list[str] = []
        self.text(24, 32, title, size=17, weight=600)
        if note:
            self.text(24, 52, note, size=12.5, colour=SOFT)

    def add(self, tag: str, **values: object) -> None:
        """Put on an element; ``stroke_width`` stands for stroke-width."""
        attributes = " ".join(
            f'{key.replace("_", "-")}="{_short(v)}"' for key, v in values.items()
        )
        self.parts.append(f"<{tag} {attributes}/>")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        colour: str = INK,
        anchor: str = "start",
        weight: int = 400,
        turn: float = 0,
    ) -> None:
        """Write words with their base line at y; ``turn`` is in degrees."""
        attributes = (
            f'x="{_short(x)}" y="{_short(y)}" font-size="{size}" fill="{colour}"'
        )
        attributes += "" if anchor == "start" else f' text-anchor="{anchor}"'
        attributes += "" if weight == 400 else f' font-weight="{weight}"'
        attributes += (
            f' transform="rotate({turn} {_short(x)} {_short(y)})"' if turn else ""
        )
        self.parts.append(
            f"<text {attributes}>{html.escape(words, quote=False)}</text>"
        )

    def legend(
        self, x: float, y: float, names: Mapping[str, str], gap: float = 18
    ) -> None:
        """Name colours, one below the other."""
        for number, (name, colour) in enumerate(names.items()):
            at = y + gap * number
            self.add("rect", x=x, y=at - 8, width=16, height=5, rx=2, fill=colour)
            self.text(x + 23, at - 1, name, size=12)

    def heat(
        self,
        x: float,
        y: float,
        cell: tuple[float, float],
        values: Sequence[Sequence[float]],
        low: float,
        high: float,
        both: bool,
    ) -> None:
        """Paint rows of values; ``both`` has a colour for each side of the middle."""
        wide, tall = cell
        boxes: dict[int, list[str]] = defaultdict(list)
        for row, line in enumerate(values):
            shades = [_shade(value, low, high) for value in line]
            at = 0
            while at < len(shades):
                end = at + 1
                while end < len(shades) and shades[end] == shades[at]:
                    end += 1
                corner = f"M{_short(x + at * wide)} {_short(y + row * tall)}"
                box = f"{corner}h{_short((end - at) * wide)}"
                boxes[shades[at]].append(
                    f"{box}v{_short(tall)}H{_short(x + at * wide)}z"
                )
                at = end
        for shade, paths in sorted(boxes.items()):
            colour = _mix(shade / (SHADES - 1), both)
            # a stroke of its own colour closes the hairlines between cells
            self.add(
                "path", d="".join(paths), fill=colour, stroke=colour, stroke_width=0.4
            )

    def scale(
        self, x: float, y: float, low: str, high: str, both: bool, size: int = 120
    ) -> None:
        """Show what the colours of a heat map mean."""
        steps = [[n / (SHADES - 1) for n in range(SHADES)]]
        self.heat(x, y, (size / SHADES, 10), steps, 0, 1, both)
        self.text(x - 6, y + 9, low, size=11, colour=SOFT, anchor="end")
        self.text(x + size + 6, y + 9, high, size=11, colour=SOFT)

    def svg(self) -> str:
        """Return the file's text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" font-family="{FONT}" '
            f'aria-label="{html.escape(self.title)}">'
        )
        sheet = (
            f'<rect x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="8" '
            f'fill="#ffffff" stroke="{GRID}"/>'
        )
        return "\n".join([head, sheet, *self.parts, "</svg>"]) + "\n"


class Plot:
    """Axes in a part of a picture; ``log`` counts y in powers of ten."""

    def __init__(
        self,
        picture: Picture,
        box: tuple[float, float, float, float],
        across: tuple[float, float, str],
        up: tuple[float, float, str],
        log: bool = False,
    ) -> None:
        self.picture = picture
        self.box = box
        self.log = log
        self.left, self.right, self.across = across
        low, high, up_name = up
        self.low, self.high = (
            (math.log10(low), math.log10(high)) if log else (low, high)
        )
        self._grid()
        x, y, wide, tall = box
        picture.text(
            x + wide / 2, y + tall + 36, self.across, colour=SOFT, anchor="middle"
        )
        picture.text(
            x - 48, y + tall / 2, up_name, colour=SOFT, anchor="middle", turn=-90
        )

    def _grid(self) -> None:
        x, y, wide, tall = self.box
        if self.log:
            powers = range(math.ceil(self.low), math.floor(self.high) + 1)
            step = max(1, math.ceil(len(powers) / 7))
            marks = [(10.0**p, f"1e{p}" if p else "1") for p in powers if p % step == 0]
        else:
            marks = [(value, label(value)) for value in ticks(self.low, self.high)]
        for value, name in marks:
            at = self.y(value)
            self.picture.add(
                "path", d=f"M{_short(x)} {_short(at)}h{_short(wide)}", stroke=GRID
            )
            self.picture.text(x - 8, at + 4, name, size=11, colour=SOFT, anchor="end")
        for value in ticks(self.left, self.right, 6) if self.across else ():
            self.picture.text(
                self.x(value),
                y + tall + 17,
                label(value),
                size=11,
                colour=SOFT,
                anchor="middle",
            )

    def x(self, value: float) -> float:
        """Return the pixel of x."""
        return (
            self.box[0] + (value - self.left) / (self.right - self.left) * self.box[2]
        )

    def y(self, value: float) -> float:
        """Return the pixel of y, no lower than the floor of a logarithmic axis."""
        value = math.log10(max(value, 10**self.low)) if self.log else value
        return self.box[1] + (self.high - value) / (self.high - self.low) * self.box[3]

    def line(
        self, points: Points, colour: str, width: float = 2, dash: str = ""
    ) -> None:
        """Draw a curve."""
        path = "M" + "L".join(
            f"{_short(self.x(x))} {_short(self.y(y))}" for x, y in points
        )
        attributes: dict[str, object] = {"stroke_dasharray": dash} if dash else {}
        self.picture.add(
            "path",
            d=path,
            fill="none",
            stroke=colour,
            stroke_width=width,
            stroke_linejoin="round",
            **attributes,
        )

    def dots(
        self, points: Points, colour: str, radius: float = 3, opacity: float = 0.7
    ) -> None:
        """Draw points as one path: round caps of lines without length."""
        path = "".join(f"M{_short(self.x(x))} {_short(self.y(y))}h0" for x, y in points)
        self.picture.add(
            "path",
            d=path,
            stroke=colour,
            stroke_width=2 * radius,
            stroke_linecap="round",
            stroke_opacity=opacity,
            fill="none",
        )

    def name(
        self, x: float, y: float, words: str, colour: str, anchor: str = "start"
    ) -> None:
        """Write words at a place of the data."""
        self.picture.text(
            self.x(x),
            self.y(y),
            words,
            size=12,
            colour=colour,
            anchor=anchor,
            weight=600,
        )


def smooth(values: Iterable[float], decay: float) -> list[float]:
    """Return the running mean of values, of which ``decay`` is kept at each."""
    kept: list[float] = []
    for value in values:
        kept.append(value if not kept else decay * kept[-1] + (1 - decay) * value)
    return kept


def arrow(
    picture: Picture, start: tuple[float, float], end: tuple[float, float]
) -> None:
    """Draw an arrow between two places."""
    (x, y) = start
    (to_x, to_y) = end
    angle = math.atan2(to_y - y, to_x - x)
    picture.add(
        "path", d=f"M{_short(x)} {_short(y)}L{_short(to_x)} {_short(to_y)}", stroke=SOFT
    )
    corners = [
        (to_x - 7 * math.cos(angle + d), to_y - 7 * math.sin(angle + d))
        for d in (-0.4, 0.4)
    ]
    tip = f"M{_short(to_x)} {_short(to_y)}" + "".join(
        f"L{_short(a)} {_short(b)}" for a, b in corners
    )
    picture.add("path", d=tip + "z", fill=SOFT)


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _shade(value: float, low: float, high: float) -> int:
    fraction = min(1.0, max(0.0, (value - low) / (high - low)))
    return round(fraction * (SHADES - 1))


def _mix(fraction: float, both: bool) -> str:
    """Return white to blue, or blue over white to red."""
    white = (255, 255, 255)
    blue = (29, 78, 216)
    red = (220, 38, 38)
    if not both:
        start = white
        end = blue
        part = fraction
    elif fraction < 0.5:
        start = blue
        end = white
        part = 2 * fraction
    else:
        start = white
        end = red
        part = 2 * fraction - 1
    return "#" + "".join(
        f"{round(a + (b - a) * part):02x}" for a, b in zip(start, end, strict=True)
    )
