# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What prompt lookup is worth, or costs: for a copying task, or for a model and a text of your own.

    python -m benchmarks.speculative --task copy --weights int4 --threads 2

makes a 135M model that repeats its prompt (``benchmarks/copying.py``), for English prompts of 200 characters, alone or
in batches (``--batches 1 4``). With ``--model`` and ``--prompt`` it runs those instead. It prints a JSON line for each
way: median seconds of all steps after the first token, and the ratio to plain decoding, both ways in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genai_iface import TextGenerationPipeline
from genai_iface.generation import PromptLookup

_TEXT = "The Attention operator computes scaled dot product attention on query, key and value tensors. "
_PERIOD = 200
# Their documentation is English of many kinds, and is on every machine that has onnx.
_OPERATORS = ("Attention", "LSTM", "Resize", "TensorScatter", "Einsum", "Loop", "NonMaxSuppression", "Softmax")


def main() -> None:
    """Runs both ways in turn, so that a slow moment of the machine meets both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=["copy"], help="a task with a model that is made for it")
    parser.add_argument("--model", help="the model folder; without it, and without a task, the embedded one")
    parser.add_argument("--weights", choices=["fp32", "int4"], default="int4", help="of the task's model")
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="where the task's model is kept")
    parser.add_argument("--backend", default="ort")
    parser.add_argument("--threads", type=int, help="of the backend; its default otherwise")
    parser.add_argument("--prompt", default=_TEXT * 4)
    parser.add_argument("--batches", type=int, nargs="+", default=[1], help="prompts per call")
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--num-drafts", type=int, default=8)
    parser.add_argument("--max-ngram", type=int, default=3, help="a token of the task's model is one character")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    folder, prompts = arguments.model, [arguments.prompt] * max(arguments.batches)
    if arguments.task == "copy":
        folder, prompts = _copying_model(arguments.work, arguments.weights), _english(max(arguments.batches))
    options = {} if arguments.threads is None else {"num_threads": arguments.threads}
    with TextGenerationPipeline(folder, backend=arguments.backend, options=options) as pipe:
        for size in arguments.batches:
            for line in _compare(pipe, prompts[:size], arguments):
                print(json.dumps(line), flush=True)


def _compare(
    pipe: TextGenerationPipeline, prompts: Sequence[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    ways: dict[str, Any] = {"plain": None, "prompt_lookup": PromptLookup(arguments.num_drafts, arguments.max_ngram)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for name, speculation in ways.items():
            results[name] = pipe.generate(
                list(prompts),
                max_new_tokens=arguments.max_new_tokens,
                ignore_eos=True,
                temperature=0,
                speculation=speculation,
            )
            seconds[name].append(results[name].perf_metrics.decode_seconds)
    plain = statistics.median(seconds["plain"])
    return [
        {
            "benchmark": "speculative",
            "task": arguments.task or "text",
            "backend": arguments.backend,
            "weights": arguments.weights if arguments.task else None,
            "batch": len(prompts),
            "way": name,
            "max_ngram": arguments.max_ngram,
            "seconds": round(statistics.median(seconds[name]), 4),
            "ratio": round(plain / statistics.median(seconds[name]), 2),
            "acceptance_rate": round(result.perf_metrics.acceptance_rate, 3),
            "equal_tokens": result.token_ids == results["plain"].token_ids,
            "copied": arguments.task == "copy" and _is_copy(pipe, prompts, result.token_ids),
        }
        for name, result in results.items()
    ]


def _copying_model(work: Path, weights: Any) -> str:
    from benchmarks.checkpoint import build_standard
    from benchmarks.copying import make_copying_checkpoint

    return str(build_standard(make_copying_checkpoint(_PERIOD, work), weights))


def _english(count: int) -> list[str]:
    """Texts of as many characters, which are as many tokens, as the model copies."""
    from onnx import defs

    texts = []
    for name in _OPERATORS[:count]:
        words = " ".join((defs.get_schema(name).doc or "").encode("ascii", "ignore").decode().split())
        texts.append((words * _PERIOD)[:_PERIOD])
    return texts


def _is_copy(pipe: TextGenerationPipeline, prompts: Sequence[str], token_ids: Sequence[Sequence[int]]) -> bool:
    copies = [pipe.tokenizer.encode(prompt) for prompt in prompts]
    return all(list(ids) == copy[: len(ids)] for ids, copy in zip(token_ids, copies, strict=True))


if __name__ == "__main__":
    main()
