# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The charts of the site show every ratio of a file of results, and the figures behind them are those of the file."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.plot import charts, read_ratios, topics

REPORTS = Path(__file__).parents[2] / "docs" / "reports"


@pytest.mark.parametrize("name", ["ort-targets.jsonl", "ort-targets-smollm2.jsonl"])
def test_every_ratio_is_drawn_and_written(name: str) -> None:
    lines = [json.loads(line) for line in (REPORTS / name).read_text(encoding="utf-8").splitlines()]
    drawn = read_ratios(REPORTS / name)
    left_out = {line["measure"] for line in lines} - {line["measure"] for line in drawn}
    assert all(measure.startswith(("step-", "python-", "memory-")) for measure in left_out)
    assert sum(len(topic.lines) for topic in topics(drawn)) == len(drawn) >= 5
    page = ElementTree.fromstring(f"<div>{charts(REPORTS / name)}</div>")
    cells = [[cell.text for cell in row] for row in page.iter("tr")]
    for line in drawn:
        verdict = "met" if line["met"] else "missed"
        assert [line["title"], f"{line['value']:.2f}", f"{line['target']:g}", verdict] in cells
    # Every bar has its words, none longer than the chart is wide, and none that the title above has said already.
    for figure, topic in zip(page.iter("figure"), topics(drawn), strict=True):
        words = ["".join(element.itertext()) for element in figure.iter() if element.tag.endswith("text")]
        shown = " ".join(words)
        for line in topic.lines:
            measure, _, other = line["title"].rpartition(", ")
            assert (measure if topic.title.endswith(other) else line["title"]) in shown
            assert not topic.title.endswith(other) or other not in shown
        assert shown.count("(missed)") == sum(not line["met"] for line in topic.lines)
        assert max(map(len, words)) <= 54
    # Bars are as long as their figures say, within a chart.
    for figure, topic in zip(page.iter("figure"), topics(drawn), strict=True):
        bars = [float(element.attrib["width"]) for element in figure.iter() if element.attrib.get("rx") == "2"]
        scales = [width / line["value"] for width, line in zip(bars, topic.lines, strict=True)]
        assert max(scales) - min(scales) < 0.5
        svg = next(element for element in figure if element.tag.endswith("svg"))
        assert svg.attrib["fill"] == "currentColor"
        assert max(bars) < 360


def test_a_measure_that_nobody_expected_is_drawn_too(tmp_path: Path) -> None:
    line = {"measure": "new", "title": "new <b>", "value": 2.0, "target": 1.0, "met": True}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    page = charts(tmp_path / "results.jsonl")
    assert "Other ratios" in page
    assert "<b>" not in page
