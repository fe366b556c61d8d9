# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model: each row of a step runs alone through Transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import DynamicCache

from genai_iface.backend_kit import (
    RowLengths,
    cache_capabilities,
    capacity_bound,
    check_batch_and_capacity,
    check_cache,
    check_loaded,
    check_step,
    empty_logits,
)
from genai_iface.capabilities import Capability
from genai_iface.display import Displayed, model_facts
from genai_iface.errors import BackendError, UnsupportedModelError
from genai_iface.types import CacheSpec, Device, LayerCacheSpec, LogitsMode, ModelSpec, StateKind, StateSpec
from genai_iface_transformers.cache import TransformersCache, has_keys
from genai_iface_transformers.row_history import RowHistory, keeps_states

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
"""What every model can do; how far its rows go back depends on what they keep."""


class TransformersModel(Displayed):
    """Implements ``Model[TransformersCache]``.

    Rows are not batched: what a runtime may get wrong with padding and masks cannot go wrong here.

    Args:
        network: The torch module that ``load_checkpoint`` returned.
        device: The device, always the processor.
    """

    def __init__(self, network: Any, /, *, device: Device) -> None:
        self._network = network
        # Transformers 5.24 renamed it; 5.40 will drop the old name.
        self._cache_name = "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"
        self._takes_positions = "position_ids" in inspect.signature(network.forward).parameters
        self._device = device
        self._config = network.config
        self._spec = _spec(network, self._cache_name)

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show."""
        return model_facts(self)

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
        found = cache_capabilities(self._spec.cache) - {Capability.CACHE_CIRCULAR}
        return CAPABILITIES | found

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> TransformersCache:
        """Makes an empty cache; it grows with its content."""
        check_loaded(self._network)
        most = check_batch_and_capacity(batch_size, capacity, capacity_bound(self._spec))
        cache = self._spec.cache
        # Of a window's tokens Transformers keeps all but the oldest: the next step would not see it.
        kept = {layer.capacity - 1 for layer in cache.layers if layer.mode == "circular" and layer.capacity}
        states = RowHistory(batch_size, lambda: DynamicCache(config=self._config)) if cache.states else None
        return TransformersCache(
            self._config, cache, RowLengths(batch_size, most, owner=self, windows=kept, states=states)
        )

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
        lengths = rows.lengths.tolist()
        for row in np.flatnonzero(step.counts).tolist():
            count = int(step.counts[row])
            ids = torch.from_numpy(step.input_ids[row : row + 1, :count])
            # Several tokens after others: some families' states come out wrong then, and none where they go one by one.
            width = 1 if self._spec.cache.states and lengths[row] else count
            parts = [
                self._run(network, part, contents[row], lengths[row] + at * width, takes_all=step.logits == "all")
                for at, part in enumerate(ids.split(width, dim=1))
            ]
            if step.logits == "all":
                result[row, :count] = np.concatenate(parts)
            elif step.logits == "last":
                result[row] = parts[-1]
        cache.take(contents)
        rows.advance(step.counts)
        return result

    def close(self) -> None:
        """Frees the weights."""
        self._network = None

    def _run(self, network: Any, ids: torch.Tensor, row: Any, begin: int, *, takes_all: bool) -> NDArray[np.float32]:
        more: dict[str, Any] = {self._cache_name: row}
        if self._takes_positions and self._spec.cache.states:
            # Some families count positions by what their first layer keeps, which need not be keys.
            more["position_ids"] = torch.arange(begin, begin + ids.shape[1])[None]
        try:
            with torch.inference_mode():
                output = network(input_ids=ids, use_cache=True, logits_to_keep=0 if takes_all else 1, **more)
        except (RuntimeError, ValueError, IndexError) as error:
            raise BackendError(
                f"Transformers failed in a step of {ids.shape[1]} tokens: {error}",
                remedy="Check the checkpoint with Transformers alone, or use another backend.",
            ) from error
        logits: NDArray[np.float32] = output.logits[0].to(torch.float32).numpy()
        return logits


def _spec(network: Any, cache_name: str) -> ModelSpec:
    """The model's shape from its configuration, in Transformers' names, and from what its cache keeps."""
    text = network.config.get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    if any(keeps_states(layer) for layer in DynamicCache(config=network.config).layers):
        return ModelSpec(text.vocab_size, context, _seen(network, cache_name))
    num_heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or num_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // num_heads
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None) or (
        ["sliding_attention" if window else "full_attention"] * text.num_hidden_layers
    )
    windows = (window if kind == "sliding_attention" else None for kind in kinds)
    layers = [_attention(kv_heads, head_dim, head_dim, each) for each in windows]
    return ModelSpec(text.vocab_size, context, CacheSpec("concat", "bnsh", tuple(layers)))


def _attention(heads: int, key_size: int, value_size: int, window: int | None) -> LayerCacheSpec:
    return LayerCacheSpec(heads, key_size, value_size, "float32", "circular" if window else "linear", window or None)


def _seen(network: Any, cache_name: str) -> CacheSpec:
    """What a cache keeps after one token: configurations of models with states have no common words for it.

    Raises:
        UnsupportedModelError: The model does not run on Transformers' own cache.
    """
    cache = DynamicCache(config=network.config)
    try:
        with torch.inference_mode():
            network(input_ids=torch.zeros((1, 1), dtype=torch.int64), use_cache=True, **{cache_name: cache})
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(
            f"{type(network).__name__} keeps states and does not run on DynamicCache: {error}",
            remedy="Use another backend for it.",
        ) from error
    layers: list[LayerCacheSpec] = []
    states: list[StateSpec] = []
    kinds: tuple[StateKind, ...] = ("conv", "recurrent")
    for layer in cache.layers:
        if has_keys(layer) and layer.is_initialized:
            window = getattr(layer, "sliding_window", None)
            layers.append(_attention(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3], window))
        number = len({state.layer for state in states})
        for kind in kinds:
            held = getattr(layer, f"{kind}_states", {}).values()
            shapes = [tuple(tensor.shape[1:]) for tensor in held if tensor is not None]
            states += [StateSpec(kind, shape, "float32", number) for shape in shapes]
    return CacheSpec("concat", "bnsh", tuple(layers), tuple(states))
