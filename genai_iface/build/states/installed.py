# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Puts the operators in the place of a network's own functions, and its cache in the place of Transformers'."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, LinearAttentionCacheLayerMixin

from genai_iface.build.methods.standard_cache import NewTokensLayer
from genai_iface.build.states.functions import lightning_attention, state_functions
from genai_iface.build.states.step_states import StepStates

__all__ = ["installed_states", "keeps_states", "step_cache"]

# States that one layer may have; each has a number of its own.
_MOST_STATES = 16
_LIGHTNING, _OWN_CACHE = "MiniMaxLightningAttention", "MiniMaxCache"


def keeps_states(network: Any) -> bool:
    """Whether Transformers gives the network a cache of more than keys and values."""
    return any(
        isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=network.config).layers
    )


@contextmanager
def installed_states(states: StepStates, network: Any) -> Iterator[None]:
    """Lets a network call the operators; afterwards it has its own functions again."""
    functions = state_functions(states)
    with ExitStack() as undo:
        for module in _modelling_files(network):
            for name in functions.keys() & vars(module).keys():
                undo.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, functions[name])
        for part in network.modules():
            if type(part).__name__ == _LIGHTNING:
                undo.callback(delattr, part, "forward")
                part.forward = partial(lightning_attention, states, part)
        yield


def step_cache(
    network: Any, capacity: Any, states: StepStates, index: Callable[[torch.Tensor], Any] | None = None
) -> Cache:
    """A cache that keeps nothing, one layer for each of the network's.

    Args:
        network: The Transformers network.
        capacity: Positions of the buffers of keys and values, for the sizes of masks.
        states: Of the step; told what the network gives to its cache.
        index: Writes the keys of an indexer of sparse attention.
    """
    # Layers that share the cache of another have none in Transformers; one too many does no harm.
    count = int(network.config.get_text_config().num_hidden_layers)
    if not keeps_states(network):
        return Cache(layers=[NewTokensLayer(capacity, index) for _ in range(count)])
    layers = [StepLayer(capacity, index, states) for index in range(count)]
    own = getattr(sys.modules[type(network).__module__], _OWN_CACHE, None)
    if own is None:
        return Cache(layers=layers)
    cache: Cache = own()  # MiniMax takes no other class
    cache.layers, cache.layer_class_to_replicate = layers, None
    return cache


class StepLayer(NewTokensLayer, LinearAttentionCacheLayerMixin):
    """A layer that hands on what it is given: operators read and write keys, values and states themselves.

    Args:
        capacity: Positions of the buffers of keys and values.
        index: The layer's number.
        states: Of the step.
    """

    # Transformers asks both kinds of layers for these, and the two bases disagree.
    supports_early_init = True
    is_compileable = False
    is_croppable = False

    def __init__(self, capacity: Any, index: int, states: StepStates) -> None:
        NewTokensLayer.__init__(self, capacity)
        LinearAttentionCacheLayerMixin.__init__(self, _MOST_STATES)
        self.is_initialized = True
        self._index = index
        self._states = states

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """Nothing to do: there are no buffers."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Notes that the layer has attention, and returns what it is given."""
        self._states.attention_wanted(self._index)
        return super().update(key_states, value_states, *args, **kwargs)

    def update_conv_state(self, conv_states: torch.Tensor, state_idx: int = 0, **_: Any) -> torch.Tensor:
        """Notes that these inputs are to be kept."""
        self._states.convolution_wanted(self._index, conv_states)
        return conv_states

    def update_recurrent_state(self, recurrent_states: torch.Tensor, state_idx: int = 0, **_: Any) -> torch.Tensor:
        """Notes that the recurrence before is to be kept."""
        self._states.recurrence_wanted(self._index)
        return recurrent_states


def _modelling_files(network: Any) -> list[ModuleType]:
    names = {type(part).__module__ for part in network.modules()}
    return [sys.modules[name] for name in sorted(names) if name.startswith("transformers.models.")]
