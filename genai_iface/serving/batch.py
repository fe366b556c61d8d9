# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Many prompts in files, answered on a cluster by Ray Data. Needs the extra "ray".

    python -m genai_iface.serving.batch prompts.jsonl answers --model my-model --workers 4 --max-new-tokens 64

A job that was broken off goes on when it is started again. Each prompt has exactly one row in the answers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from genai_iface.config import GenerationConfig
from genai_iface.errors import BackendError, GenAIError, InvalidInputError
from genai_iface.pipeline import TextGenerationPipeline
from genai_iface.serving.scale.shards import (
    Shard,
    is_written,
    open_job,
    plan_shards,
    prompt_files,
    read_shard,
    write_shard,
)

__all__ = ["BatchReport", "run_batch"]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a job has come to.

    Attributes:
        prompts: All of them.
        resumed: How many had their answers before.
        failed: How many of the others have an error in place of a text.
    """

    prompts: int
    resumed: int
    failed: int


def run_batch(
    source: str | PathLike[str],
    output: str | PathLike[str],
    /,
    *,
    model: str | None = None,
    backend: str = "ort",
    workers: int = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    slots: int = 8,
    prefix_bytes: int = 2**30,
    shard_size: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> BatchReport:
    """Answers the prompts in files. A second call with the same arguments does what the first has left.

    Args:
        source: A ``.jsonl`` or ``.parquet`` file, or a folder of such files. A row has ``prompt``, a text, or
            ``messages``, a conversation (in Parquet also as JSON), and perhaps an ``id``.
        output: A folder that all workers see: one Parquet file for each shard, with the columns index, id, text,
            finish_reason, prompt_tokens, completion_tokens and error.
        model: A folder that all workers see, or an id; None for the embedded model.
        backend: A registered backend.
        workers: Processes, each with a model of its own.
        num_cpus: CPUs of each; a backend that takes ``num_threads`` gets as many threads.
        num_gpus: GPUs of each.
        slots: Prompts that each runs at once.
        prefix_bytes: As of ``TextGenerationPipeline.scheduler``.
        shard_size: Prompts of one unit of work: what is lost with a worker, at most, for each of its units.
        on_progress: Gets (prompts that have their answers, all prompts) after each shard.
        **overrides: Fields of ``GenerationConfig``. Draws depend on ``seed`` and the number of the prompt alone.

    Returns:
        What it came to.

    Raises:
        InvalidInputError: An argument is not legal, or the folder is that of another job.
        OutputError: The folder cannot be written.
        BackendError: An answer could not be made or written; started again, the job goes on.
    """
    GenerationConfig(**overrides).validate()
    if workers < 1:
        raise InvalidInputError(f"workers={workers} is not legal", remedy="Legal: an integer of at least 1.")
    folder = Path(output).absolute()
    shards = plan_shards([path.absolute() for path in prompt_files(Path(source))], shard_size)
    settings = {"model": model, "backend": backend, "shard_size": shard_size, "overrides": overrides}
    open_job(folder, shards, settings)
    left = [shard for shard in shards if not is_written(folder, shard)]
    total = sum(shard.count for shard in shards)
    resumed = done = total - sum(shard.count for shard in left)
    failed = 0
    threads = {"num_threads": max(int(num_cpus), 1)} if backend == "ort" else {}
    if left:
        answered = ray.data.from_items(
            [dataclasses.asdict(shard) for shard in left], override_num_blocks=len(left)
        ).map_batches(
            _Worker,
            fn_constructor_args=(str(folder), model, backend, threads, slots, prefix_bytes, dict(overrides)),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(left))),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        try:
            for row in answered.iter_rows():
                done += int(row["count"])
                failed += int(row["failed"])
                if on_progress is not None:
                    on_progress(done, total)
        except ray.exceptions.RayError as error:
            raise BackendError(
                f"The job broke off after {done} of {total} prompts: {error}",
                remedy="Mend the cause and start it again; what is done stays done.",
            ) from error
    missing = [shard.number for shard in shards if not is_written(folder, shard)]
    if missing:
        raise BackendError(f"The answers of the shards {missing[:20]} are not there", remedy="Start the job again.")
    return BatchReport(total, resumed, failed)


class _Worker:
    """Answers shards with a model of its own."""

    def __init__(
        self,
        folder: str,
        model: str | None,
        backend: str,
        options: Mapping[str, Any],
        slots: int,
        prefix_bytes: int,
        overrides: Mapping[str, Any],
    ) -> None:
        self._folder = Path(folder)
        self._overrides = overrides
        self._pipeline = TextGenerationPipeline(model, backend=backend, options=options)
        self._scheduler = self._pipeline.scheduler(slots=slots, prefix_bytes=prefix_bytes)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Answers shards, given as columns, and writes their files."""
        failed = []
        for at, path in enumerate(batch["path"]):
            number, first, start, count, offset = (
                int(batch[name][at]) for name in ("number", "first", "start", "count", "offset")
            )
            shard = Shard(number, str(path), first, start, count, offset)
            answers = self._answers(shard)
            write_shard(self._folder, shard, answers)
            failed.append(sum(answer["error"] is not None for answer in answers))
        return {"count": batch["count"], "failed": np.array(failed)}

    def _answers(self, shard: Shard) -> list[dict[str, Any]]:
        rows = read_shard(shard)
        started = [self._start(row, shard.first + at) for at, row in enumerate(rows)]
        return [
            self._answer(row, shard.first + at, request)
            for at, (row, request) in enumerate(zip(rows, started, strict=True))
        ]

    def _start(self, row: Any, index: int) -> Any:
        """The request of a row, or what is wrong with the row."""
        try:
            prompt = _prompt_of(row)
            return self._scheduler.submit(prompt, index=index, **self._overrides)
        except BackendError:
            # The machine's fault, which starting again may mend.
            raise
        except GenAIError as error:
            return error

    def _answer(self, row: Any, index: int, request: Any) -> dict[str, Any]:
        own = row.get("id") if isinstance(row, dict) else None
        answer = {"index": index, "id": None if own is None else str(own), "error": None}
        if isinstance(request, GenAIError):
            return {**answer, "error": str(request)}
        result = request.result()
        metrics = result.perf_metrics
        return {
            **answer,
            "text": result.text,
            "finish_reason": result.finish_reasons[0],
            "prompt_tokens": metrics.num_prompt_tokens,
            "completion_tokens": metrics.num_generated_tokens,
        }


def _prompt_of(row: Any) -> Any:
    """The text or the conversation of a row.

    Raises:
        InvalidInputError: There is none.
    """
    if isinstance(row, ValueError):
        raise InvalidInputError(f"The row is not legal: {row}", remedy="Write one JSON object a line.")
    given = row if isinstance(row, dict) else {}
    prompt, messages = given.get("prompt"), given.get("messages")
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(f"messages is no JSON: {error}", remedy="Give a list of messages.") from error
    if isinstance(prompt, str) and messages is None:
        return prompt
    if prompt is None and isinstance(messages, list) and messages:
        return messages
    raise InvalidInputError(
        f"The row has the fields {sorted(map(str, given))}", remedy="Give prompt, a text, or messages, a list."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a job, in a Ray that is there (RAY_ADDRESS) or in one of its own on this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a .jsonl or .parquet file of prompts, or a folder of them")
    parser.add_argument("output", help="a folder for the answers")
    parser.add_argument("--model", help="a folder or an id (default: the embedded model)")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--num-cpus", type=float, default=1, help="of each worker")
    parser.add_argument("--num-gpus", type=float, default=0, help="of each worker")
    parser.add_argument("--slots", type=int, default=8, help="prompts that a worker runs at once")
    parser.add_argument("--shard-size", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--config", default="{}", help="further fields of GenerationConfig, as a JSON object")
    given = vars(parser.parse_args(arguments))
    try:
        overrides = json.loads(given.pop("config"))
    except ValueError as error:
        parser.error(f"--config is no JSON: {error}")
    if not isinstance(overrides, dict):
        parser.error("--config is no JSON object")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, address=os.environ.get("RAY_ADDRESS"))
    try:
        report = run_batch(
            given.pop("source"),
            given.pop("output"),
            on_progress=lambda done, total: print(f"{done} of {total} prompts", file=sys.stderr),  # noqa: T201
            **{**given, **overrides},
        )
    except GenAIError as error:
        print(f"genai_iface.serving.batch: {error}", file=sys.stderr)  # noqa: T201
        return 2 if isinstance(error, InvalidInputError) else 1
    finally:
        ray.shutdown()
    print(json.dumps(dataclasses.asdict(report)))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
