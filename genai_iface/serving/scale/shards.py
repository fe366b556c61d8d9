# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts in files, cut into shards, and one file of answers for each shard: whole, or not there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genai_iface._new_files import new_file
from genai_iface.errors import InvalidInputError

__all__ = ["ANSWERS", "Shard", "is_written", "open_job", "plan_shards", "prompt_files", "read_shard", "write_shard"]

ANSWERS = pa.schema(
    [
        ("index", pa.int64()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("error", pa.string()),
    ]
)
"""Columns of the answers: the number of the prompt over all files, and its own ``id`` if it has one."""

_KINDS = (".jsonl", ".parquet")
_JOB = "job.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """Prompts that follow each other in one file.

    Attributes:
        number: Of the shard; its answers' file has it in its name.
        path: The file.
        first: Number of the first prompt over all files.
        start: Its row in the file.
        count: Prompts.
        offset: Where it begins in a JSONL file, in bytes.
    """

    number: int
    path: str
    first: int
    start: int
    count: int
    offset: int = 0


def prompt_files(source: Path, /) -> list[Path]:
    """The files of a job, in the order of their names.

    Raises:
        InvalidInputError: There are none.
    """
    found = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [path for path in found if path.is_file() and path.suffix in _KINDS]
    if not files:
        raise InvalidInputError(
            f"{str(source)!r} holds no prompts", remedy="Give a .jsonl or .parquet file, or a folder that has some."
        )
    return files


def plan_shards(files: Sequence[Path], size: int, /) -> list[Shard]:
    """Cuts files into shards of at most ``size`` prompts; the same files give the same shards.

    Raises:
        InvalidInputError: A file cannot be read, has no prompts in it, or size is not positive.
    """
    if size < 1:
        raise InvalidInputError(f"shard_size={size} is not legal", remedy="Legal: an integer of at least 1.")
    shards: list[Shard] = []
    first = 0
    for path in files:
        start = 0
        for count, offset in _stretches(path, size):
            shards.append(Shard(len(shards), str(path), first, start, count, offset))
            first, start = first + count, start + count
    return shards


def _stretches(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """(Prompts, where they begin in bytes) of each shard of a file."""
    try:
        if path.suffix == ".parquet":
            schema = pq.read_schema(path)
            if not {"prompt", "messages"} & set(schema.names):
                raise InvalidInputError(
                    f"{str(path)!r} has the columns {schema.names}", remedy='One must be "prompt" or "messages".'
                )
            total = pq.read_metadata(path).num_rows
            yield from ((min(size, total - start), 0) for start in range(0, total, size))
            return
        with path.open("rb") as file:
            count, begin, at = 0, 0, 0
            for line in file:
                at += len(line)
                count += bool(line.strip())
                if count == size:
                    yield count, begin
                    count, begin = 0, at
            if count:
                yield count, begin
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"{str(path)!r} cannot be read: {error}", remedy="Give a readable file.") from error


def read_shard(shard: Shard, /) -> list[Any]:
    """The rows of a shard; a line that is no JSON is a ``ValueError`` in the list."""
    path = Path(shard.path)
    if path.suffix == ".parquet":
        return _parquet_rows(path, shard)
    rows: list[Any] = []
    with path.open("rb") as file:
        file.seek(shard.offset)
        while len(rows) < shard.count:
            line = file.readline()
            if not line:
                raise InvalidInputError(f"{shard.path!r} is shorter than it was", remedy="Start a new job.")
            if line.strip():
                rows.append(_parsed(line))
    return rows


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"the line is no JSON: {error}")


def _parquet_rows(path: Path, shard: Shard) -> list[Any]:
    rows: list[Any] = []
    with pq.ParquetFile(path) as file:
        columns = [name for name in ("id", "prompt", "messages") if name in file.schema_arrow.names]
        at, end = 0, shard.start + shard.count
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if at < end and at + size > shard.start:
                table = file.read_row_group(group, columns=columns)
                begin = max(shard.start - at, 0)
                rows += table.slice(begin, min(end - at, size) - begin).to_pylist()
            at += size
    return rows


def answers_path(folder: Path, number: int) -> Path:
    """The file of a shard's answers."""
    return folder / f"answers-{number:06}.parquet"


def is_written(folder: Path, shard: Shard, /) -> bool:
    """Whether the answers of a shard are there.

    Raises:
        InvalidInputError: Something else is there in their place.
    """
    path = answers_path(folder, shard.number)
    if not path.exists():
        return False
    try:
        index = pq.read_table(path, columns=["index"])["index"].to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InvalidInputError(f"{str(path)!r} cannot be read: {error}", remedy="Remove it and run again.") from error
    if index != list(range(shard.first, shard.first + shard.count)):
        raise InvalidInputError(f"{str(path)!r} holds answers to other prompts", remedy="Remove it and run again.")
    return True


def write_shard(folder: Path, shard: Shard, answers: Sequence[Mapping[str, Any]], /) -> None:
    """Writes the answers of a shard, in the order of its prompts. Who writes them again replaces them by the same.

    Raises:
        OutputError: There is no room, or no permission.
    """
    table = pa.Table.from_pylist(list(answers), schema=ANSWERS)
    with new_file(answers_path(folder, shard.number)) as temporary:
        pq.write_table(table, temporary)


def open_job(folder: Path, shards: Sequence[Shard], settings: Mapping[str, Any], /) -> None:
    """Makes the folder of a job, or finds that it is that of the same one.

    Args:
        folder: For the answers.
        shards: What is to be done.
        settings: What decides how the answers are.

    Raises:
        InvalidInputError: The folder is that of another job, or has other things in it.
        OutputError: It cannot be written.
    """
    sizes = {path: Path(path).stat().st_size for path in sorted({shard.path for shard in shards})}
    job = {"settings": dict(settings), "bytes": sizes, "shards": [asdict(shard) for shard in shards]}
    path = folder / _JOB
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"{str(path)!r} cannot be read: {error}", remedy="Give a new folder.") from error
        wrong = [
            name for name in job if not isinstance(found, dict) or found.get(name) != json.loads(json.dumps(job[name]))
        ]
        if wrong:
            raise InvalidInputError(
                f"{str(folder)!r} is the folder of another job: its {' and '.join(wrong)} differ",
                remedy="Give a new folder, or what that job was given.",
            )
        return
    if folder.exists() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise InvalidInputError(f"{str(folder)!r} is not empty, and no job's", remedy="Give a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(job, indent=1), encoding="utf-8")
