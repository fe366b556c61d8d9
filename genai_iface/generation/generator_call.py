# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The generator of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from genai_iface.generation.call import Call
from genai_iface.generation.generator import ModelGenerator
from genai_iface.generation.prefix import rows_from_prefix
from genai_iface.protocols import Model, Tokenizer

__all__ = ["open_generator"]


def open_generator(
    run: Call,
    model: Model[Any],
    tokenizer: Tokenizer,
    *,
    eos_token_ids: Sequence[int],
    prefill_chunk_size: int,
    on_prefill: Callable[[int, int], None] | None,
) -> ModelGenerator[Any]:
    """Makes the generator of a call and gives it the prompts.

    Args:
        run: The call.
        model: Runs it.
        tokenizer: Text from tokens.
        eos_token_ids: What ends a sequence if a configuration itself names nothing.
        prefill_chunk_size: Most prompt tokens per sequence in one step.
        on_prefill: As for ``ModelGenerator``.
    """
    if run.prefix is not None:
        run.rows, run.num_reused_tokens = rows_from_prefix(
            model, run.prefix, run.prompts, run.capacity, prefill_chunk_size
        )
    generator = ModelGenerator(
        model,
        run.configs,
        num_sequences=len(run.prompts),
        capacity=run.capacity,
        eos_token_ids=eos_token_ids,
        tokenizer=tokenizer,
        continues_text=run.continues_text or run.configs[0].echo,
        logits_processors=run.logits_processors,
        stopping_criteria=run.stopping_criteria,
        constraint=run.constraint,
        drops_finished=not run.borrows_rows,
        rows=run.rows,
        num_reused_tokens=run.num_reused_tokens,
        speculation=run.speculation,
        prefill_chunk_size=prefill_chunk_size,
        on_prefill=on_prefill,
        stopwatch=run.stopwatch,
    )
    try:
        generator.append_tokens(run.prompts)
    except BaseException:
        if run.borrows_rows:
            generator.close_drafter()
        else:
            generator.close()
        raise
    return generator
