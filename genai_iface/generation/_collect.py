# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From the chunks of a request to its result."""

from __future__ import annotations

from collections.abc import Iterable

from genai_iface.generation._request import GenerationRequest
from genai_iface.generation.engine import Engine
from genai_iface.generation.text.streamer import streaming_to
from genai_iface.results import Chunk, FinishReason, GenerationResult, TokenLogprob

__all__ = ["collect"]


def collect(request: GenerationRequest, engine: Engine, chunks: Iterable[Chunk]) -> GenerationResult:
    """Reads all chunks of a request, and shows them to the caller's streamer and hook as they come.

    Args:
        request: What was asked.
        engine: What runs the request.
        chunks: What it gives.

    Raises:
        InvalidInputError: The streamer is not one, or there are several sequences for it.
    """
    count = request.num_sequences
    texts: list[list[str]] = [[] for _ in range(count)]
    token_ids: list[list[int]] = [[] for _ in range(count)]
    logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
    reasons: list[FinishReason] = ["stop"] * count
    scores: dict[int, float] = {}
    with streaming_to(request.hooks, count, engine.cancel) as take:
        for chunk in chunks:
            take(chunk)
            texts[chunk.index].append(chunk.text)
            token_ids[chunk.index].extend(chunk.token_ids)
            logprobs[chunk.index].extend(chunk.logprobs or ())
            reasons[chunk.index] = chunk.finish_reason or reasons[chunk.index]
            if chunk.beam_score is not None:
                scores[chunk.index] = chunk.beam_score
    return GenerationResult(
        texts=["".join(pieces) for pieces in texts],
        token_ids=token_ids,
        finish_reasons=reasons,
        logprobs=logprobs if any(config.logprobs is not None for config in request.configs) else None,
        perf_metrics=engine.metrics,
        seed=request.seed,
        beam_scores=[scores[index] for index in sorted(scores)] if scores else None,
    )
