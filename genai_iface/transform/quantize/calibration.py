# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The range of keys and values, from a run over text on any backend whose caches can be read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.protocols import Model
from genai_iface.transform.quantize._cache import CacheRange

__all__ = ["calibrate", "default_text", "english_text", "random_tokens", "windows_of"]

# English that every installation has: the documentation of these operators.
_OPERATORS = ("TensorScatter", "Attention", "RotaryEmbedding", "RMSNormalization", "LSTM", "Resize", "Loop", "Scan")
_WINDOW = 512
_PARAGRAPH, _STRIDE = 200, 16


def default_text() -> str:
    """The documentation of a few ONNX operators, from the installed package."""
    return "\n\n".join(str(onnx.defs.get_schema(name).doc).strip() for name in _OPERATORS)


def english_text() -> str:
    """English prose that every installation has: the language reference that Python's own help shows.

    Where a distribution leaves that out, it is ``default_text``.
    """
    if find_spec("pydoc_data") is None:
        return default_text()
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    paragraphs = [part.strip() for name in sorted(topics) for part in topics[name].split("\n\n")]
    prose = [" ".join(part.split()) for part in paragraphs if len(part) > _PARAGRAPH and not part.startswith("*")]
    # Far parts of it side by side, so that few tokens say much.
    return "\n\n".join(part for start in range(_STRIDE) for part in prose[start::_STRIDE]) or default_text()


def random_tokens(vocab_size: int, count: int, /) -> list[int]:
    """Token ids for a model that has no tokenizer."""
    return [int(token) for token in np.random.default_rng(0).integers(0, vocab_size, count)]


def windows_of(tokens: Sequence[int], /, *, context: int | None, most: int) -> list[list[int]]:
    """Tokens cut into sequences of up to 512 that the model's context can hold.

    Args:
        tokens: The token ids of the calibration text.
        context: The model's context length.
        most: Tokens to use at most.
    """
    size = _WINDOW if context is None else min(_WINDOW, context)
    used = list(tokens[:most])
    return [used[begin : begin + size] for begin in range(0, len(used), size)]


def calibrate(
    model: Model[Any], sequences: Sequence[Sequence[int]], /, *, progress: Callable[[int, int], None] | None = None
) -> list[CacheRange]:
    """Runs the model and reads from its cache how large keys and values get.

    Args:
        model: A model with the capability "inspect".
        sequences: Token ids of one or more texts.
        progress: Called with (sequences done, all sequences).

    Returns:
        One range per layer.

    Raises:
        UnsupportedCapabilityError: The model's caches cannot be read.
        InvalidInputError: There are no tokens, or keys or values are not finite.
    """
    if Capability.INSPECT not in model.capabilities:
        raise UnsupportedCapabilityError(
            f"Calibration reads the cache, which needs the capability {Capability.INSPECT!s}",
            remedy='Calibrate with backend="numpy" or "ort".',
        )
    layers = model.spec.cache.layers
    keys = [np.zeros((layer.num_kv_heads, layer.key_head_dim), np.float32) for layer in layers]
    values = [np.zeros((layer.num_kv_heads, layer.value_head_dim), np.float32) for layer in layers]
    if not any(len(tokens) for tokens in sequences):
        raise InvalidInputError("There is no token to calibrate with", remedy="Give a longer text.")
    for done, tokens in enumerate(sequences, start=1):
        if tokens:
            _observe(model, tokens, keys, values)
        if progress is not None:
            progress(done, len(sequences))
    for index, seen in enumerate((*keys, *values)):
        if not np.isfinite(seen).all():
            raise InvalidInputError(
                f"Layer {index % len(layers)} gives keys or values that are not finite",
                remedy="Check the model, for example with genai-iface verify.",
            )
    return [CacheRange(key, value) for key, value in zip(keys, values, strict=True)]


def _observe(
    model: Model[Any], tokens: Sequence[int], keys: list[NDArray[np.float32]], values: list[NDArray[np.float32]]
) -> None:
    # A circular cache is read before it forgets.
    windows = [layer.capacity for layer in model.spec.cache.layers if layer.mode == "circular"]
    chunk = min((window for window in windows if window is not None), default=len(tokens))
    cache = model.create_cache(capacity=len(tokens))
    try:
        for begin in range(0, len(tokens), chunk):
            model.forward(np.array([tokens[begin : begin + chunk]]), cache, logits="none")
            for layer in range(len(keys)):
                for held, seen in zip((keys, values), cache.read(layer, 0), strict=True):
                    np.maximum(held[layer], np.abs(seen.astype(np.float32)).max(axis=1), out=held[layer])
    finally:
        cache.close()
