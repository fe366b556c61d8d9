# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts in files, answered by Ray Data: a worker is killed, a job is broken off, and every prompt has one answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError, TextGenerationPipeline
from tests.marks import needs_ort
from tests.serving.ray_cluster import kill_one, local_ray, needs_ray

pytestmark = [pytest.mark.slow, needs_ray, needs_ort, pytest.mark.filterwarnings("ignore")]  # warnings of Ray's own
WORKER = "ray::MapWorker"
WORDS = ("Add", "Concat", "Gather", "MatMul", "Softmax", "Where", "Cast")
SETTINGS: dict[str, Any] = {"max_new_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    with local_ray(3):
        yield


def prompts(path: Path, count: int) -> Path:
    lines = [json.dumps({"id": f"p{at}", "prompt": f"The {WORDS[at % len(WORDS)]} of {at}"}) for at in range(count)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def answers_in(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return [row for path in sorted(folder.glob("answers-*")) for row in pq.read_table(path).to_pylist()]


def check_whole(folder: Path, count: int) -> list[dict[str, Any]]:
    rows = answers_in(folder)
    assert Counter(row["index"] for row in rows) == Counter(range(count))
    assert all(row["id"] == f"p{row['index']}" for row in rows)
    assert [path for path in folder.iterdir() if path.name.startswith(".")] == []
    return rows


def test_a_killed_worker_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    from genai_iface.serving.batch import run_batch

    source, folder = prompts(tmp_path / "prompts.jsonl", 2000), tmp_path / "out"
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        assert total == 2000
        if done > 400 and not killed:
            killed.append(done)
            kill_one(WORKER)

    report = run_batch(source, folder, workers=2, shard_size=50, on_progress=progress, **SETTINGS)
    assert killed
    assert (report.prompts, report.resumed, report.failed) == (2000, 0, 0)
    rows = check_whole(folder, 2000)
    with TextGenerationPipeline(backend="ort") as pipe:
        for at in range(0, 2000, 97):
            assert rows[at]["text"] == pipe.generate(f"The {WORDS[at % len(WORDS)]} of {at}", **SETTINGS).text
    assert {row["completion_tokens"] for row in rows} == {2}

    # Again: nothing is left to do.
    assert run_batch(source, folder, workers=2, shard_size=50, **SETTINGS).resumed == 2000
    with pytest.raises(InvalidInputError, match="another job: its settings differ"):
        run_batch(source, folder, workers=2, shard_size=50, max_new_tokens=3)


def test_a_job_that_was_broken_off_goes_on(tmp_path: Path) -> None:
    from genai_iface.serving.batch import run_batch

    source, folder = prompts(tmp_path / "prompts.jsonl", 200), tmp_path / "out"

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done >= 60:
            raise Stopped

    with pytest.raises(Stopped):
        run_batch(source, folder, shard_size=20, on_progress=stop, **SETTINGS)
    before = len(answers_in(folder))
    assert before >= 60
    report = run_batch(source, folder, shard_size=20, **SETTINGS)
    assert 60 <= report.resumed <= 200
    check_whole(folder, 200)


def test_rows_that_are_wrong_have_an_error(tmp_path: Path) -> None:
    from genai_iface.serving.batch import run_batch

    rows = [{"prompt": "Add"}, {"prompt": 3}, {"text": "x"}, {"messages": []}, {"prompt": "long " * 9000}]
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n".join([*map(json.dumps, rows), "{oops", '{"prompt": "Cast"}']), encoding="utf-8")
    report = run_batch(source, tmp_path / "out", **SETTINGS)
    found = answers_in(tmp_path / "out")
    assert (report.prompts, report.failed) == (7, 5)
    assert [row["error"] is None for row in found] == [True, False, False, False, False, False, True]
    assert all(bool(row["text"]) == (row["error"] is None) for row in found)
