# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies that Transformers changes with the length of the batch, held fixed while a network is traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

__all__ = ["fixed_rotary", "longest_exact_context"]


def longest_exact_context(config: Any) -> int | None:
    """Tokens up to which fixed frequencies are those of Transformers; None if there is no such limit.

    "longrope" has one set of frequencies for short and one for long sequences, "dynamic" stretches them with the
    length. In a cache the keys of a row would then be rotated by one set and its queries by another.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind == "longrope":
        original = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        return original if original is None else int(original)
    if "dynamic" in str(kind):
        return int(text.max_position_embeddings)
    return None


@contextmanager
def fixed_rotary(network: Any, context: int | None) -> Iterator[None]:
    """Holds the frequencies that a sequence of ``context`` tokens has; the shortest ones if None."""
    exact = longest_exact_context(network.config)
    changed: list[tuple[Any, str, Any, Any]] = []
    for module in network.modules():
        kind = getattr(module, "rope_type", None)
        if not isinstance(kind, str) or not ("dynamic" in kind or kind == "longrope"):
            continue
        changed.append((module, kind, module.inv_freq, module.attention_scaling))
        if exact is not None and context is not None and context > exact:
            frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](network.config.get_text_config(), None, seq_len=context)
        else:
            frequencies, scaling = module.original_inv_freq, module.attention_scaling
        module.inv_freq = frequencies.clone()
        module.attention_scaling = scaling
        module.rope_type = "default"
    try:
        yield
    finally:
        for module, kind, frequencies, scaling in changed:
            module.rope_type, module.inv_freq, module.attention_scaling = kind, frequencies, scaling
