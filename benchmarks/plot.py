# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Draws what ``benchmarks.ort_targets`` printed: one chart for each topic, and its figures as a table.

python -m benchmarks.plot RESULTS.jsonl OUT.html

The charts are inline SVG in the colors of the page around them. The documentation puts them where a page has
``<!-- charts: RESULTS.jsonl -->``; the command writes a page of its own, to look at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Any

__all__ = ["Topic", "charts", "read_ratios", "topics"]

# Less is better, or no ratio. By how their names begin.
_NOT_RATIOS = ("step-capacity-", "python-overhead", "memory-overhead-")

# A phone's width: what is drawn for it is readable everywhere.
_WIDTH = 360
_RIGHT = 44
_ROW = 40
_BAR = 14
# As many letters as a line of a chart surely has room for.
_LETTERS = 54
_LINE = 15


@dataclass(frozen=True)
class Topic:
    """Ratios that belong in one chart.

    Attributes:
        title: What they have in common.
        lines: The results, as they were printed.
    """

    title: str
    lines: tuple[dict[str, Any], ...]


_TITLES = {
    ("decode-", "-genai"): "Decode, over ONNX Runtime GenAI",
    ("decode-", "-llamacpp"): "Decode, over llama.cpp",
    ("decode-", "-transformers"): "Decode, over Transformers",
    ("prefill-", ""): "Prefill",
    ("decode-scatter-over-concat-", ""): "Cache in place, over a copied one",
    ("decode-", "-bandwidth-floor"): "Decode, over what the memory's bandwidth allows",
}


def main() -> None:
    """Reads JSON lines and writes a page with the charts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    style = "<style>:root{color-scheme:light dark;font-family:sans-serif}svg{width:100%;max-width:30rem}</style>"
    arguments.out.write_text(f"{head}{style}\n{charts(arguments.results)}\n", encoding="utf-8")


def read_ratios(results: Path, /) -> list[dict[str, Any]]:
    """The lines of a file that are ratios of which more is better.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is not JSON.
    """
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [line for line in lines if "value" in line and not line["measure"].startswith(_NOT_RATIOS)]


def topics(lines: Sequence[dict[str, Any]], /) -> list[Topic]:
    """The ratios by what they compare, in the order of their first lines."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        found.setdefault(_title(line["measure"]), []).append(line)
    return [Topic(title, tuple(group)) for title, group in found.items()]


def charts(results: Path, /) -> str:
    """The charts of a file of results as HTML.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is not JSON.
    """
    lines = read_ratios(results)
    limit = max([1.0, *(max(line["value"], line["target"]) for line in lines)])
    drawn = []
    for topic in topics(lines):
        # One scale for all but what stands far out, so that bars compare between charts too.
        highest = max(max(line["value"], line["target"]) for line in topic.lines)
        drawn.append(_figure(topic, limit if highest > 1.5 else min(limit, 1.5)))
    return "\n".join(drawn)


def _title(measure: str) -> str:
    # The longest pair that fits is the most particular one.
    fitting = [
        (len(begin) + len(end), title)
        for (begin, end), title in _TITLES.items()
        if measure.startswith(begin) and measure.endswith(end)
    ]
    return max(fitting)[1] if fitting else "Other ratios"


def _figure(topic: Topic, limit: float) -> str:
    summary = "; ".join(f"{line['title']}: {line['value']:.2f}, target {line['target']:g}" for line in topic.lines)
    rows = "".join(
        f"<tr><td>{escape(line['title'])}</td><td>{line['value']:.2f}</td><td>{line['target']:g}</td>"
        f"<td>{'met' if line['met'] else 'missed'}</td></tr>"
        for line in topic.lines
    )
    head = "<tr><th>Measure</th><th>Ratio</th><th>Target</th><th>Verdict</th></tr>"
    return (
        '<figure class="chart">\n'
        f"<figcaption>{escape(topic.title)}</figcaption>\n"
        f"{_svg(topic, limit, summary)}\n"
        f"<details><summary>The figures</summary><table><thead>{head}</thead><tbody>{rows}</tbody></table></details>\n"
        "</figure>"
    )


def _svg(topic: Topic, limit: float, summary: str) -> str:
    scale = (_WIDTH - _RIGHT) / limit
    labels = [_label(topic, line) for line in topic.lines]
    height = sum(_ROW + _LINE * (len(label) - 1) for label in labels) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(topic.title)}: {escape(summary)}" font-size="12" fill="currentColor">'
    ]
    top = 0
    for line, label in zip(topic.lines, labels, strict=True):
        kind = "met" if line["met"] else "missed"
        color = f"var(--chart-{kind}, {'#2a7f62' if line['met'] else '#b5651d'})"
        width = line["value"] * scale
        mark = line["target"] * scale
        for words in label:
            parts.append(f'<text x="0" y="{top + 13}">{escape(words)}</text>')
            top += _LINE
        top -= _LINE
        parts += [
            f'<rect x="0" y="{top + 18}" width="{width:.1f}" height="{_BAR}" rx="2" style="fill:{color}"/>',
            f'<path d="M{scale:.1f} {top + 16}v18" stroke="currentColor" stroke-dasharray="2 2" stroke-opacity="0.6"/>',
            f'<rect x="{mark - 1:.1f}" y="{top + 15}" width="2" height="{_BAR + 6}"/>',
            f'<text x="{max(width, mark) + 5:.1f}" y="{top + 30}" font-weight="bold">{line["value"]:.2f}</text>',
        ]
        top += _ROW
    parts += [
        f'<text x="{scale:.1f}" y="{top + 14}" text-anchor="middle">dotted: equal; line: the target</text>',
        "</svg>",
    ]
    return "".join(parts)


def _label(topic: Topic, line: dict[str, Any]) -> list[str]:
    """The words above a bar, line by line; what the chart's title says already is not said again."""
    words, comma, other = line["title"].rpartition(", ")
    short = words if comma and topic.title.lower().endswith(other.lower()) else line["title"]
    return wrap(short + ("" if line["met"] else " (missed)"), _LETTERS) or [""]


if __name__ == "__main__":
    main()
