# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The prompts that a network is compared with torch on: as long as its windows and limits ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genai_iface.build._reasons import does_not_run
from genai_iface.build._verify import MORE_TOKENS, Reference, torch_reference
from genai_iface.build.checkpoint.quiet import BROKEN
from genai_iface.build.methods.rotary_context import longest_exact_context
from genai_iface.build.states.installed import keeps_states
from genai_iface.build.states.other_ways import has_cache, other_way, refusal
from genai_iface.errors import GenAIError

__all__ = ["SHORTEST_PROMPT", "reference_of"]

SHORTEST_PROMPT, _LONGEST_PROMPT = 16, 160
"""Tokens of the longest prompt of a reference, at least and at most."""

_STEPS = 32


def reference_of(
    network: Any, context: int | None, progress: Callable[[int, int], None], *, use_cache: bool = True
) -> Reference:
    """What torch computes, with prompts and tokens for this network.

    Args:
        network: The Transformers network.
        context: Tokens that a sequence may have, None for what the checkpoint says.
        progress: Called with (rows done, all rows).
        use_cache: Whether logits may come from Transformers' cache. Those of a network that keeps states never do.

    Raises:
        UnsupportedModelError: The network does not run by itself, or keeps something else than a cache.
    """
    try:
        return _reference(network, context, progress, use_cache=use_cache)
    except GenAIError:
        raise
    except BROKEN as error:
        raise does_not_run(network, error) from error


def _reference(
    network: Any, context: int | None, progress: Callable[[int, int], None], *, use_cache: bool
) -> Reference:
    """Prompts long enough to leave every window, as far as that is affordable."""
    text = network.config.get_text_config()
    windows = [getattr(text, name, None) or 0 for name in ("sliding_window", "attention_chunk_size")]
    prompt = min(max(SHORTEST_PROMPT, max(windows) + 8), _LONGEST_PROMPT)
    exact = longest_exact_context(network.config)
    if exact is not None and context is not None and context > exact:
        return torch_reference(
            network,
            steps=min(_STEPS, context - exact - SHORTEST_PROMPT),
            prompt_tokens=exact + SHORTEST_PROMPT,
            progress=progress,
        )
    # Where continuing from a cache gives other logits, or there is none, whole rows are run.
    whole_rows = keeps_states(network) or not use_cache
    if not has_cache(network):
        way = other_way(network)
        if way is not None:
            raise refusal(network, way)
        whole_rows = True
    # XLNet says -1 where there is no limit.
    positions = max(getattr(text, "max_position_embeddings", None) or 0, 0)
    limit = context or positions or 2 * _STEPS + MORE_TOKENS
    room = limit - MORE_TOKENS if whole_rows else limit
    steps = min(_STEPS, room // 2)
    return torch_reference(
        network, steps=steps, prompt_tokens=min(prompt, room - steps), use_cache=not whole_rows, progress=progress
    )
