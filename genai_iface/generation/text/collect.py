# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""From the chunks of a call to its result."""

from __future__ import annotations

from collections.abc import Iterable

from genai_iface.generation.call import Call
from genai_iface.generation.text.streamer import ChunkHook
from genai_iface.results import Chunk, FinishReason, GenerationResult, TokenLogprob

__all__ = ["collect"]


def collect(run: Call, chunks: Iterable[Chunk], on_chunk: ChunkHook | None = None) -> GenerationResult:
    """Reads all chunks of a call.

    Args:
        run: The call.
        chunks: Its chunks.
        on_chunk: Called with each of them as it comes.
    """
    texts: list[list[str]] = [[] for _ in run.prompts]
    token_ids: list[list[int]] = [[] for _ in run.prompts]
    logprobs: list[list[TokenLogprob]] = [[] for _ in run.prompts]
    reasons: list[FinishReason] = ["stop"] * len(run.prompts)
    for chunk in chunks:
        if on_chunk is not None:
            on_chunk(chunk)
        texts[chunk.index].append(chunk.text)
        token_ids[chunk.index].extend(chunk.token_ids)
        logprobs[chunk.index].extend(chunk.logprobs or ())
        reasons[chunk.index] = chunk.finish_reason or reasons[chunk.index]
    return GenerationResult(
        texts=["".join(pieces) for pieces in texts],
        token_ids=token_ids,
        finish_reasons=reasons,
        logprobs=logprobs if any(config.logprobs is not None for config in run.configs) else None,
        perf_metrics=run.metrics,
        seed=run.seed,
        beam_scores=run.beam_scores,
    )
