# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Capability names: what a backend, or one model on it, declares that it can do.

A backend lists them in ``BackendInfo.capabilities``, a loaded model in ``Model.capabilities`` (a
subset: the cache style of one folder may rule out what the backend can do for another). What is
declared is promised: the conformance kit fails a declared capability that does not work.
Plain strings are legal wherever a capability is asked for; a vendor's own start with "x-".
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

__all__ = ["LEVEL_PROFILES", "Capability"]


class Capability(StrEnum):
    """The names that the interface itself gives a meaning to."""

    BATCH = "batch"
    """Caches with more than one row."""

    RAGGED = "ragged"
    """Steps in which rows have different counts and lengths, idle rows (count 0) among them."""

    CHUNKED_PREFILL = "chunked_prefill"
    """Steps of more than one token on rows that already hold tokens."""

    LOGITS_ALL = "logits_all"
    """``forward(..., logits="all")``."""

    REWIND = "rewind"
    """``KVCache.rewind_to`` to any shorter length, row by row."""

    REWIND_STEP = "rewind_step"
    """``KVCache.rewind_to`` to the length that a row had before the last step; declared where ``rewind`` cannot be."""

    REORDER = "reorder"
    """``KVCache.reorder``, with duplicates and with fewer or more rows than before."""

    IN_PLACE = "in_place"
    """A step writes the new tokens into the cache's own buffers; ``update_mode`` proves it."""

    GROWTH = "growth"
    """The memory of a cache follows its used length, not its capacity."""

    THREADS = "threads"
    """Several threads may call ``forward`` on one model at once, each with its own cache."""

    CACHE_SCATTER = "cache_scatter"
    """Models whose cache is updated by TensorScatter."""

    CACHE_CIRCULAR = "cache_circular"
    """Models whose TensorScatter wraps around (mode "circular")."""

    CACHE_CONCAT = "cache_concat"
    """Models whose cache is past/present tensors that grow."""

    CACHE_SHARED = "cache_shared"
    """Models whose cache is the shared buffer of the contrib operator GroupQueryAttention."""

    STATE = "state"
    """Models that keep states besides keys and values, or nothing but states."""

    CHECKPOINT = "checkpoint"
    """The cache implements ``SupportsCheckpoint``; declared where ``rewind`` cannot be."""

    FORK = "fork"
    """The cache implements ``SupportsFork``."""

    SAVE = "save"
    """The model implements ``SupportsSave``."""

    INSPECT = "inspect"
    """The cache implements ``SupportsInspect``."""

    GENERATOR = "generator"
    """The backend implements ``SupportsGenerator``: its runtime owns the loop, and pipelines drive its generators."""


_STEP = frozenset({Capability.BATCH, Capability.RAGGED, Capability.CHUNKED_PREFILL, Capability.REWIND})

LEVEL_PROFILES: Mapping[int, frozenset[Capability]] = MappingProxyType(
    {
        0: frozenset(),
        1: frozenset(),
        2: _STEP | {Capability.REORDER},
        3: _STEP | {Capability.REORDER, Capability.LOGITS_ALL},
        4: _STEP | {Capability.REORDER, Capability.LOGITS_ALL},
    }
)
"""The capabilities that a backend must declare to be judged at a conformance level."""
