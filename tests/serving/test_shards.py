# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts in files, cut into shards; and answers whose folder belongs to one job."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from genai_iface import InvalidInputError

pytestmark = pytest.mark.skipif(
    find_spec("pyarrow") is None, reason="pyarrow is not installed; pip install '.[ray,serve]'"
)


def jsonl(path: Path, count: int, *, blank: bool = False) -> Path:
    lines = [json.dumps({"prompt": f"{path.stem} {at} ä", "id": at}) for at in range(count)]
    path.write_text(("\n\n" if blank else "\n").join(lines) + "\n", encoding="utf-8")
    return path


def parquet(path: Path, count: int, *, group: int = 7) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"other": list(range(count)), "prompt": [f"{path.stem} {at} ä" for at in range(count)]})
    pq.write_table(table, path, row_group_size=group)
    return path


@pytest.mark.parametrize("size", [1, 3, 5, 100])
def test_every_row_is_in_one_shard(tmp_path: Path, size: int) -> None:
    from genai_iface.serving.scale.shards import plan_shards, prompt_files, read_shard

    jsonl(tmp_path / "a.jsonl", 11, blank=True)
    parquet(tmp_path / "b.parquet", 20)
    jsonl(tmp_path / "c.jsonl", 5)
    (tmp_path / "notes.txt").write_text("none of them", encoding="utf-8")
    shards = plan_shards(prompt_files(tmp_path), size)
    assert max(shard.count for shard in shards) <= size
    rows = [row["prompt"] for shard in shards for row in read_shard(shard)]
    assert rows == [f"{name} {at} ä" for name, count in (("a", 11), ("b", 20), ("c", 5)) for at in range(count)]
    assert [shard.first for shard in shards] == [sum(one.count for one in shards[:at]) for at in range(len(shards))]


def test_a_line_that_is_no_json_has_its_place(tmp_path: Path) -> None:
    from genai_iface.serving.scale.shards import plan_shards, read_shard

    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "x"}\n{oops\n\xff\n' + b"[" * 99999 + b'\n{"prompt": "y"}')
    (shard,) = plan_shards([path], 10)
    first, *wrong, last = read_shard(shard)
    assert (first, last) == ({"prompt": "x"}, {"prompt": "y"})
    assert [type(row) for row in wrong] == [ValueError] * 3


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.parquet", b"PAR1 no", "cannot be read"),
        ("a.txt", b"x", "holds no prompts"),
        ("none", None, "holds no prompts"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, content: bytes | None, match: str) -> None:
    from genai_iface.serving.scale.shards import plan_shards, prompt_files

    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=match):
        plan_shards(prompt_files(tmp_path / name), 10)


def answers(first: int, count: int) -> list[dict[str, Any]]:
    return [{"index": first + at, "text": str(at)} for at in range(count)]


def test_a_folder_belongs_to_one_job(tmp_path: Path) -> None:
    from genai_iface.serving.scale.shards import is_written, open_job, plan_shards, write_shard

    shards = plan_shards([jsonl(tmp_path / "a.jsonl", 5)], 3)
    folder = tmp_path / "out"
    open_job(folder, shards, {"model": "m"})
    assert not any(is_written(folder, shard) for shard in shards)
    write_shard(folder, shards[1], answers(3, 2))
    write_shard(folder, shards[1], answers(3, 2))
    open_job(folder, shards, {"model": "m"})
    assert [is_written(folder, shard) for shard in shards] == [False, True]

    with pytest.raises(InvalidInputError, match="another job: its settings differ"):
        open_job(folder, shards, {"model": "other"})
    jsonl(tmp_path / "a.jsonl", 6)
    with pytest.raises(InvalidInputError, match="bytes and shards differ"):
        open_job(folder, plan_shards([tmp_path / "a.jsonl"], 3), {"model": "m"})
    write_shard(folder, shards[0], answers(1, 3))
    with pytest.raises(InvalidInputError, match="answers to other prompts"):
        is_written(folder, shards[0])
    with pytest.raises(InvalidInputError, match="not empty"):
        open_job(tmp_path, shards, {"model": "m"})
    (folder / "job.json").write_text("{", encoding="utf-8")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        open_job(folder, shards, {"model": "m"})
