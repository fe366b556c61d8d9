# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GroupQueryAttention and its buffer in standard operators, with a note for each layer."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from genai_iface.graph.signature import GraphSignature
from genai_iface.transform.contrib.shared_cache import SharedCache
from genai_iface.transform.convert._cache_surgery import LayerNote

__all__ = ["replace_shared_cache"]


def replace_shared_cache(
    model: ir.Model, signature: GraphSignature, capacity: int | None, progress: Callable[[int, int], None] | None
) -> tuple[LayerNote, ...]:
    """Writes every GroupQueryAttention and its buffer in standard operators; says what each layer was.

    Args:
        model: The model of opset 24, changed in place.
        signature: Its signature, cache style "shared".
        capacity: Positions of the cache, None to leave them symbolic.
        progress: Called with (layers replaced, all layers).

    Raises:
        UnsupportedModelError: A node has something that the standard operators lack.
    """
    shared = SharedCache(signature, capacity, progress)
    shared(model)
    masks = [f"window {window}" if window else "causal" for window in shared.windows]
    return tuple(LayerNote(index, "GroupQueryAttention", mask) for index, mask in enumerate(masks))
