# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model: each row of a step runs alone through Transformers."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from genai_iface.backend_kit import (
    RowLengths,
    capacity_bound,
    check_batch_and_capacity,
    check_cache,
    check_loaded,
    check_step,
    empty_logits,
)
from genai_iface.capabilities import Capability
from genai_iface.errors import BackendError
from genai_iface.types import CacheSpec, Device, LayerCacheSpec, LogitsMode, ModelSpec
from genai_iface_transformers.cache import TransformersCache

__all__ = ["CAPABILITIES", "TransformersModel"]

CAPABILITIES: frozenset[str] = frozenset(
    {
        Capability.BATCH,
        Capability.RAGGED,
        Capability.CHUNKED_PREFILL,
        Capability.LOGITS_ALL,
        Capability.REORDER,
        Capability.GROWTH,
        Capability.THREADS,
        Capability.FORK,
        Capability.INSPECT,
    }
)
"""What every model can do; one without sliding windows can rewind, too."""


class TransformersModel:
    """Implements ``Model[TransformersCache]``.

    Rows are not batched: what a runtime may get wrong with padding and masks cannot go wrong here.

    Args:
        network: From ``load_checkpoint``.
        device: The device, always the processor.
    """

    def __init__(self, network: Any, /, *, device: Device) -> None:
        self._network = network
        self._device = device
        self._config = network.config
        self._spec = _spec(network.config)
        # Transformers renames the argument; models that have not followed yet know the old name only.
        self._cache_name = "cache" if "cache" in signature(network.forward).parameters else "past_key_values"

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def device(self) -> Device:
        """The processor."""
        return self._device

    @property
    def capabilities(self) -> frozenset[str]:
        """What this model can do."""
        return CAPABILITIES if self._spec.cache.is_circular else CAPABILITIES | {Capability.REWIND}

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> TransformersCache:
        """Makes an empty cache; it grows with its content."""
        check_loaded(self._network)
        most = check_batch_and_capacity(batch_size, capacity, capacity_bound(self._spec))
        cache = self._spec.cache
        # Of a window's tokens Transformers keeps all but the oldest: the next step would not see it.
        kept = {layer.capacity - 1 for layer in cache.layers if layer.mode == "circular" and layer.capacity}
        return TransformersCache(self._config, cache, RowLengths(batch_size, most, owner=self, windows=kept))

    def forward(
        self,
        input_ids: ArrayLike,
        cache: TransformersCache,
        /,
        *,
        counts: ArrayLike | None = None,
        logits: LogitsMode = "last",
    ) -> NDArray[np.float32]:
        """Appends tokens to the rows of a cache and returns logits."""
        network = check_loaded(self._network)
        rows = check_cache(cache, self)
        vocab_size = self._spec.vocab_size
        step = check_step(
            input_ids, counts, logits, lengths=rows.lengths, capacity=rows.capacity, vocab_size=vocab_size
        )
        result = empty_logits(step, vocab_size)
        contents = cache.next_contents()
        for row in np.flatnonzero(step.counts).tolist():
            count = int(step.counts[row])
            ids = torch.from_numpy(step.input_ids[row : row + 1, :count])
            got = self._run(network, ids, contents[row], count if step.logits == "all" else 1)
            if step.logits == "all":
                result[row, :count] = got
            elif step.logits == "last":
                result[row] = got
        cache.contents = contents
        rows.advance(step.counts)
        return result

    def close(self) -> None:
        """Frees the weights."""
        self._network = None

    def _run(self, network: Any, ids: torch.Tensor, row: Any, num_kept: int) -> NDArray[np.float32]:
        try:
            with torch.inference_mode():
                past = {self._cache_name: row}
                output = network(input_ids=ids, use_cache=True, logits_to_keep=num_kept, **past)
        except (RuntimeError, ValueError, IndexError) as error:
            raise BackendError(
                f"Transformers failed in a step of {ids.shape[1]} tokens: {error}",
                remedy="Check the checkpoint with Transformers alone, or use another backend.",
            ) from error
        logits: NDArray[np.float32] = output.logits[0].to(torch.float32).numpy()
        return logits


def _spec(config: Any) -> ModelSpec:
    """The model's shape from its configuration, in Transformers' names."""
    text = config.get_text_config()
    num_heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or (
        ["sliding_attention" if window else "full_attention"] * text.num_hidden_layers
    )
    layers = []
    for kind in kinds:
        slides = kind == "sliding_attention" and window
        layers.append(
            LayerCacheSpec(
                kv_heads,
                head_dim,
                head_dim,
                "float32",
                "circular" if slides else "linear",
                window if slides else None,
            )
        )
    cache = CacheSpec("concat", "bnsh", tuple(layers))
    return ModelSpec(text.vocab_size, getattr(text, "max_position_embeddings", None), cache)
