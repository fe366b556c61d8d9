# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The worked example of docs/interface.md, run on the reference backend and compared number by number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import load_model
from genai_iface_numpy.evaluator import Evaluator
from tests.models import write_folder

PAGE = Path(__file__).parents[1] / "docs" / "interface.md"
CAPACITY = 8


def rows() -> list[tuple[str, ...]]:
    """The cells of the table: call, S, counts, lengths before, the two inputs, lengths after."""
    match = re.search(r"<!-- worked-example -->\n(.*?)<!-- /worked-example -->", PAGE.read_text(encoding="utf-8"), re.S)
    assert match
    lines = match[1].splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def numbers(cell: str) -> list[int]:
    return [int(number) for number in cell.split(",")]


def test_the_table_is_what_the_graph_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Mapping[str, Any]] = []
    original = Evaluator.run

    def recorded(self: Evaluator, feeds: Mapping[str, Any], outputs: Any, /) -> Any:
        given.append(feeds)
        return original(self, feeds, outputs)

    monkeypatch.setattr(Evaluator, "run", recorded)
    model = load_model(write_folder(tmp_path / "model"))
    cache = model.create_cache(batch_size=2, capacity=CAPACITY)
    table = rows()
    assert len(table) == 5
    for call, width, counts, before, write_indices, nonpad, after in table:
        assert cache.lengths.tolist() == numbers(before), call
        if call == "rewind_to":
            cache.rewind_to(numbers(after))
        else:
            given.clear()
            model.forward(np.full((2, int(width)), 7), cache, counts=numbers(counts))
            (feeds,) = given
            assert feeds["write_indices"].tolist() == numbers(write_indices) == numbers(before), call
            assert feeds["nonpad_kv_seqlen"].tolist() == numbers(nonpad), call
            assert numbers(nonpad) == [length + int(width) for length in numbers(before)], call
        assert cache.lengths.tolist() == numbers(after), call
