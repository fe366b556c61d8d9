# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The states of a row of a cache as data, and the picture of them. The tests take every arrow on real caches."""

from __future__ import annotations

from dataclasses import dataclass

from tools.spec.svg import ACCENT, Drawing

__all__ = ["ARROWS", "CAPACITY", "WINDOW", "Arrow", "draw_states"]

CAPACITY = 6
"""Of the caches on which the tests try the arrows; circular ones have twice as much."""

WINDOW = 4
"""Positions of a circular layer in these tests."""


@dataclass(frozen=True)
class Arrow:
    """What leads from one state to another.

    Attributes:
        start: "empty", "part", "full", "wrapped", or "closed".
        call: "forward" with the number of tokens, "rewind_to" with the length, "reset" or "close".
        argument: The number that the method is called with.
        end: The state after it; the same as ``start`` where it is refused.
        error: The class of the error that refuses it, or "".
    """

    start: str
    call: str
    argument: int | None
    end: str
    error: str = ""


ARROWS = (
    Arrow("empty", "forward", 2, "part"),
    Arrow("empty", "forward", CAPACITY, "full"),
    Arrow("part", "forward", 1, "part"),
    Arrow("part", "forward", 3, "full"),
    Arrow("part", "rewind_to", 1, "part"),
    Arrow("part", "rewind_to", 0, "empty"),
    Arrow("part", "reset", None, "empty"),
    Arrow("full", "forward", 1, "full", "CacheOverflowError"),
    Arrow("full", "forward", 0, "full"),
    Arrow("full", "rewind_to", 2, "part"),
    Arrow("full", "rewind_to", 0, "empty"),
    Arrow("full", "reset", None, "empty"),
    Arrow("empty", "reset", None, "empty"),
    Arrow("wrapped", "forward", 1, "wrapped"),
    Arrow("wrapped", "rewind_to", 4, "wrapped", "CacheRewindError"),
    Arrow("wrapped", "rewind_to", 0, "empty"),
    Arrow("wrapped", "reset", None, "empty"),
    Arrow("wrapped", "forward", 2 * CAPACITY, "wrapped", "CacheOverflowError"),
    *(Arrow(state, "close", None, "closed") for state in ("empty", "part", "full", "wrapped")),
    Arrow("closed", "close", None, "closed"),
    Arrow("closed", "forward", 1, "closed", "InvalidInputError"),
)
"""All of them. The one from "part" to "wrapped" needs a circular cache; the tests make it on their way."""

_WIDTH, _HEIGHT = 118, 44


def draw_states() -> str:
    """The picture."""
    drawing = Drawing(760, 372, "States of a row: empty, partly filled, full, wrapped; and a closed cache")
    places = {"empty": (126, 112), "part": (380, 112), "full": (640, 112), "wrapped": (380, 282), "closed": (640, 282)}
    names = {"part": "partly filled", "closed": "cache closed"}
    for state, (x, y) in places.items():
        drawing.box(x - _WIDTH / 2, y - _HEIGHT / 2, _WIDTH, _HEIGHT, fill="currentColor", fill_opacity=0.1, radius=10)
        drawing.text(x, y + 5, names.get(state, state), size=14)
    # Making a cache.
    drawing.line("M18 112H58")
    drawing.head(66, 112, "right")
    drawing.text(4, 80, "create_cache", anchor="start", size=12)
    for left, right, words in ((185, 321, "forward"), (439, 581, "forward")):
        drawing.line(f"M{left} 104H{right - 8}")
        drawing.head(right, 104, "right")
        drawing.text((left + right) / 2, 97, words, size=12)
    for left, right, words in ((185, 321, "rewind_to(0)"), (439, 581, "rewind_to(n)")):
        drawing.line(f"M{left + 8} 121H{right}")
        drawing.head(left, 121, "left")
        drawing.text((left + right) / 2, 138, words, size=12)
    # From empty to full at once.
    drawing.line("M126 90V40Q126 28 138 28H628Q640 28 640 40V82")
    drawing.head(640, 90, "down")
    drawing.text(250, 21, "forward with as many tokens as fit", size=12)
    # Loops of the states in the middle and on the right.
    drawing.line("M350 90V66Q350 58 358 58H402Q410 58 410 66V82")
    drawing.head(410, 90, "down")
    drawing.text(380, 51, "forward, rewind_to(n > 0)", size=12)
    drawing.line("M664 134V144Q664 152 672 152H706Q714 152 714 144V120Q714 112 707 112", colour=ACCENT, dashed=True)
    drawing.head(699, 112, "left", colour=ACCENT)
    drawing.text(752, 169, "forward: CacheOverflowError", anchor="end", size=12)
    # Circular layers.
    drawing.line("M380 134V252")
    drawing.head(380, 260, "down")
    drawing.text(388, 190, "forward beyond the window", anchor="start", size=12)
    drawing.text(388, 206, "of a circular layer", anchor="start", size=12)
    drawing.line("M350 304V320Q350 328 358 328H402Q410 328 410 320V312")
    drawing.head(410, 304, "up")
    drawing.text(380, 343, "forward", size=12)
    drawing.line("M321 290H304Q296 290 296 282V270Q296 262 304 262H313", colour=ACCENT, dashed=True)
    drawing.head(321, 262 + 6, "right", colour=ACCENT)
    drawing.text(286, 268, "0 < n < length:", anchor="end", size=12)
    drawing.text(286, 284, "rewind_to(n) is a", anchor="end", size=12)
    drawing.text(286, 300, "CacheRewindError", anchor="end", size=12)
    # From everywhere.
    drawing.line("M126 190V142")
    drawing.head(126, 134, "up")
    drawing.text(126, 206, "reset, rewind_to(0)", size=12)
    drawing.text(126, 222, "from every open state", size=12)
    drawing.line("M640 212V252")
    drawing.head(640, 260, "down")
    drawing.text(640, 206, "close, from every state", size=12)
    drawing.line("M664 304V320Q664 328 672 328H706Q714 328 714 320V290Q714 282 707 282", colour=ACCENT, dashed=True)
    drawing.head(699, 282, "left", colour=ACCENT)
    drawing.text(752, 343, "forward: InvalidInputError", anchor="end", size=12)
    drawing.text(6, 364, "Dashed: refused, nothing has changed.", anchor="start", size=12)
    return drawing.render()
