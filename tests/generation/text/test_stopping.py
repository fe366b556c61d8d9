# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Stop strings in whole texts, and length limits."""

from __future__ import annotations

import pytest

from genai_iface import GenerationConfig
from genai_iface.generation import StopStrings
from genai_iface.generation.text.stopping import length_limit


@pytest.mark.parametrize(
    ("stops", "text", "end", "end_included"),
    [
        (["x"], "abc", None, None),
        (["b"], "abc", 1, 2),
        (["bc", "b"], "abc", 1, 2),
        # "b" is complete before "abc" is, although "abc" begins earlier.
        (["abc", "b"], "abc", 1, 2),
        # Both are complete at the same character: the longer one.
        (["c", "bc"], "abc", 1, 3),
        (["b"], "abab", 1, 2),
    ],
)
def test_where_a_text_ends(stops: list[str], text: str, end: int | None, end_included: int | None) -> None:
    assert StopStrings(stops).find_end(text) == end
    assert StopStrings(stops, include=True).find_end(text) == end_included


@pytest.mark.parametrize(
    ("stops", "text", "overlap"),
    [
        (["STOP"], "a", 0),
        (["STOP"], "aS", 1),
        (["STOP"], "STO", 3),
        (["STOP"], "SST", 2),
        (["aab", "b"], "aaa", 2),
        (["xyz", "b"], "ab", 0),
    ],
)
def test_what_may_be_the_beginning_of_a_stop_string(stops: list[str], text: str, overlap: int) -> None:
    assert StopStrings(stops).overlap(text) == overlap


def test_no_stop_strings() -> None:
    assert not StopStrings([])
    assert StopStrings([]).find_end("abc") is None
    assert StopStrings([]).overlap("abc") == 0


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 100),
        ({"max_new_tokens": 5}, 15),
        ({"max_new_tokens": 500}, 100),
        ({"max_length": 12}, 12),
        ({"max_length": 12, "max_new_tokens": 5}, 12),
        ({"max_length": 50, "max_new_tokens": 5}, 15),
    ],
)
def test_length_limit(fields: dict[str, int], limit: int) -> None:
    assert length_limit(GenerationConfig(**fields), 10, 100) == limit
