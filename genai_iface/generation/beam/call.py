# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Beam search as a call of a pipeline: several sequences for each prompt, and their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from genai_iface.generation.beam.search import BeamSearch, Hypothesis
from genai_iface.generation.call import Call
from genai_iface.generation.plan import SequencePlan
from genai_iface.generation.text.stopping import StopStrings
from genai_iface.generation.text.stream import TextStream
from genai_iface.protocols import Model, Tokenizer
from genai_iface.results import Chunk

__all__ = ["beam_chunks", "found_beams", "open_search"]


def open_search(
    call: Call,
    model: Model[Any],
    tokenizer: Tokenizer,
    *,
    eos_token_ids: Sequence[int],
    prefill_chunk_size: int,
    on_prefill: Callable[[int, int], None] | None,
) -> BeamSearch:
    """The search for the prompts of a call, whose sequences stand beside each other in it."""
    firsts = _firsts(call)
    plans = [
        SequencePlan(
            call.configs[first],
            vocab_size=model.spec.vocab_size,
            eos_token_ids=eos_token_ids,
            seed=0,
            logits_processors=call.logits_processors,
            constraint=call.constraint,
            tokenizer=tokenizer,
        )
        for first in firsts
    ]
    return BeamSearch(
        model,
        plans,
        [call.prompts[first] for first in firsts],
        capacity=call.capacity,
        tokenizer=tokenizer,
        continues_text=call.continues_text,
        stopping_criteria=call.stopping_criteria,
        prefill_chunk_size=prefill_chunk_size,
        on_prefill=on_prefill,
        stopwatch=call.stopwatch,
    )


def found_beams(call: Call) -> list[Hypothesis]:
    """What a finished search has found, in the order of the call's sequences."""
    search = call.search
    if search is None:
        return []
    return [found for index in range(len(_firsts(call))) for found in search.hypotheses(index)]


def beam_chunks(call: Call, found: Sequence[Hypothesis], tokenizer: Tokenizer) -> Iterator[Chunk]:
    """One chunk for each sequence."""
    for index, hypothesis in enumerate(found):
        config, ids = call.configs[index], hypothesis.token_ids
        stop = StopStrings(config.stop_strings, include=config.include_stop_str_in_output)
        stream = TextStream(tokenizer, stop, call.prompts[index] if call.continues_text else ())
        shown = ids[:-1] if hypothesis.has_stop_token and not config.include_stop_str_in_output else ids
        text = "".join([stream.push(token)[0] for token in shown]) + stream.finish()
        logprobs = hypothesis.logprobs if config.logprobs is not None else None
        yield Chunk(text, tuple(ids), logprobs, index, hypothesis.finish_reason)


def _firsts(call: Call) -> list[int]:
    """The index of each prompt's first sequence."""
    firsts, index = [], 0
    while index < len(call.configs):
        firsts.append(index)
        index += call.configs[index].num_return_sequences
    return firsts
