# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The example of the page "State" is a real run, and shows what the page says."""

from __future__ import annotations

import json

from tools.spec.state_example import FILE, tell
from tools.spec.tables import TABLES


def test_it_is_what_a_run_gives() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == tell(), "python -m tools.spec.state_example"


def test_it_shows_what_the_page_says() -> None:
    story = json.loads(FILE.read_text(encoding="utf-8"))
    by_call = {event["call"]: event for event in story}
    assert story[0]["states"] == [["a3", "a4"], ["b1", "b2"]]
    # Padding and idling leave a state alone; no column ever holds a padding token.
    assert by_call["row 1 idles"]["states"][1] == story[1]["states"][1] == ["b2", "b3"]
    assert not any("pad" in row for event in story for row in event["states"])
    refused = by_call["rewind_to([4, 3])"]
    assert "it can go to 0, 5" in refused["error"]
    assert refused["lengths"] == [5, 3]
    assert by_call["rewind_to([5, 4])"]["states"] == [["a4", "a5"], ["b3", "b4"]]
    assert story[-1]["states"] == [["a5", "a8"], ["b4", "b5"]]
    assert TABLES["state-example"]().count("\n") == 1 + len(story)
