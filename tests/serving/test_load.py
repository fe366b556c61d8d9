# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A short run of the load test, and of the simulation of many replicas."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.marks import needs_ort

pytest.importorskip("benchmarks.serving_load", reason="the benchmarks are not part of this tree")


@pytest.mark.slow
@needs_ort
def test_nothing_is_lost_or_mixed_up_under_load(tmp_path: Path) -> None:
    from benchmarks.serving_load import main

    words = ["--requests", "250", "--clients", "24", "--questions", "40", "--exact", "--work-dir", str(tmp_path)]
    trace = tmp_path / "trace.jsonl"
    result = main([*words, "--record", str(trace)])
    assert result["errors"] == result["lost"] == 0, result
    assert result["answers_of_another_question"] == 0, result
    # Rounding in a batch makes some draws others; see docs/reports/serving.md.
    assert result["different_from_reference"] <= 0.03 * result["answers_compared"], result
    assert result["answers_compared"] > 150
    assert set(result["kinds"]) == {"whole", "stream", "cancel", "slow", "broken", "killed"}
    assert result["slots_free_at_the_end"]
    assert result["memory"]["growth"] < 0.1
    assert len(trace.read_text(encoding="utf-8").splitlines()) == 250


def trace_of(path: Path, *, shared: bool) -> Path:
    """Twenty-three users, each with many requests that begin alike, or with none."""
    lines = []
    for number in range(400):
        begin = (
            [(number % 23) * 100 + at for at in range(8)] if shared else [10_000 + 8 * number + at for at in range(8)]
        )
        line = {"timestamp": 40 * number, "input_length": 160, "output_length": 8, "hash_ids": [*begin, 5_000 + number]}
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_routing_by_prefix_gains_where_there_is_something_to_share(tmp_path: Path) -> None:
    from benchmarks.routing import main

    shared = main(["--trace", str(trace_of(tmp_path / "a.jsonl", shared=True)), "--replicas", "10"])["ways"]
    assert shared["prefix"]["prompt_tokens_not_run"] > 0.8
    assert shared["prefix"]["prompt_tokens_not_run"] > 1.5 * shared["round_robin"]["prompt_tokens_not_run"]
    assert shared["prefix"]["seconds_to_first_token"]["mean"] < shared["round_robin"]["seconds_to_first_token"]["mean"]
    alone = main(["--trace", str(trace_of(tmp_path / "b.jsonl", shared=False)), "--replicas", "10"])["ways"]
    assert {way["prompt_tokens_not_run"] for way in alone.values()} == {0.0}
