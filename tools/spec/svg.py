# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Just enough SVG: boxes, lines, arrows and text, in colours that follow the page."""

from __future__ import annotations

from html import escape

__all__ = ["ACCENT", "MARK", "Drawing"]

ACCENT = "#d9730d"
"""Where something is written. Legible on white and on dark."""

MARK = "#3b82f6"
"""How far something is valid."""

_HEAD = """\
<!-- SPDX-FileCopyrightText: The ONNX generative-AI interface authors -->
<!-- SPDX-License-Identifier: Apache-2.0 -->
<!-- Written by python -m tools.spec.pictures -->
"""
# Alone in a browser there is no page to take the colour from; ":root" is true of the drawing only there.
_STYLE = "svg:root{color:#1f2328}@media(prefers-color-scheme:dark){svg:root{color:#d1d7e0;background:#1e2129}}"


class Drawing:
    """A picture that is built from top to bottom.

    Args:
        width: The width in pixels.
        height: The height in pixels.
        title: What it shows, for those who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self._width, self._height, self._title = width, height, title
        self._parts: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "middle",
        size: int = 13,
        opacity: float = 1.0,
        mono: bool = False,
    ) -> None:
        """Text whose baseline is at y."""
        font = "monospace" if mono else "sans-serif"
        fade = f' opacity="{_n(opacity)}"' if opacity < 1 else ""
        self._parts.append(
            f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" font-size="{size}" font-family="{font}" '
            f'fill="currentColor"{fade}>{escape(text)}</text>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str = "none",
        fill_opacity: float = 0.0,
        opacity: float = 1.0,
        dashed: bool = False,
        radius: float = 0,
    ) -> None:
        """A rectangle with an outline in the colour of the text."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        inside = f'fill="{fill}" fill-opacity="{_n(fill_opacity)}"' if fill_opacity else 'fill="none"'
        self._parts.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}" {inside} '
            f'stroke="currentColor" stroke-opacity="{_n(opacity)}"{dash}/>'
        )

    def line(self, path: str, *, colour: str = "currentColor", width: float = 1.5, dashed: bool = False) -> None:
        """An open path."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{_n(width)}"{dash}/>')

    def head(self, x: float, y: float, direction: str, *, colour: str = "currentColor") -> None:
        """The head of an arrow whose tip is at (x, y): "up", "down", "left" or "right"."""
        a, b = 8, 4.5
        corners = {
            "down": ((x - b, y - a), (x + b, y - a)),
            "up": ((x - b, y + a), (x + b, y + a)),
            "right": ((x - a, y - b), (x - a, y + b)),
            "left": ((x + a, y - b), (x + a, y + b)),
        }[direction]
        points = " ".join(f"{_n(px)},{_n(py)}" for px, py in ((x, y), *corners))
        self._parts.append(f'<polygon points="{points}" fill="{colour}"/>')

    def render(self) -> str:
        """The file's text."""
        body = "\n".join(self._parts)
        return (
            f'{_HEAD}<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {self._height}" '
            f'width="{self._width}" height="{self._height}" role="img" color="currentColor">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n{body}\n</svg>\n"
        )


def _n(value: float) -> str:
    """A number as short as it can be said."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
