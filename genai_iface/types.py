# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The data that crosses the interface: devices, and what a backend and a model say of themselves.

Frozen dataclasses without behavior beyond arithmetic on their own fields. What generation gives
back lives in ``genai_iface.results``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from genai_iface.display import Displayed, spec_facts

__all__ = [
    "BackendInfo",
    "CacheLayout",
    "CacheMode",
    "CacheSpec",
    "CacheStyle",
    "DType",
    "Device",
    "LayerCacheSpec",
    "LogitsMode",
    "ModelSpec",
    "StateKind",
    "StateSpec",
    "UpdateMode",
]

CacheStyle: TypeAlias = Literal["scatter", "concat", "shared"]
"""How the graph keeps keys and values; see docs/spec/model-folder.md."""

CacheLayout: TypeAlias = Literal["bnsh", "bsh"]
"""Cache tensors as (B, Hkv, C, D) with the sequence on axis 2, or (B, C, Hkv * D) with it on axis 1."""

CacheMode: TypeAlias = Literal["linear", "circular"]
"""TensorScatter's ``mode``: writes must fit, or wrap around."""

DType: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]
"""Element type of cache tensors; of int8 ones the graph itself knows the scales."""

StateKind: TypeAlias = Literal["conv", "recurrent"]
"""The last inputs of a short convolution, or the matrix of a linear attention or state-space layer."""

LogitsMode: TypeAlias = Literal["last", "all", "none"]
"""Which logits a step returns."""

UpdateMode: TypeAlias = Literal["in_place", "copied"]
"""Whether a step wrote into the cache's own buffers or the runtime made new ones."""

_ITEM_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1})


@dataclass(frozen=True, slots=True)
class Device:
    """A place where a backend can run a model.

    Mirrors ``Device{identifier, config}`` of the working group's C++ headers.

    Attributes:
        identifier: What ``Backend.load(device=...)`` takes: "cpu", "cuda:0".
        kind: The family: "cpu", "cuda".
        config: Descriptive or runtime-specific key-value pairs.
    """

    identifier: str
    kind: str
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a backend says of itself. The conformance kit holds it to every word.

    Attributes:
        name: The name under which it is registered.
        version: The backend's own version.
        runtime: The runtime it drives, as a reader knows it: "onnxruntime".
        runtime_version: That runtime's version.
        interface_versions: The interface versions that it implements.
        capabilities: Names from ``genai_iface.capabilities``, or a vendor's own with the prefix "x-".
        dtypes: Cache element types that it can run.
        limits: Upper bounds by name, for example {"max_batch_size": 64}; what is absent is unlimited.
    """

    name: str
    version: str
    runtime: str
    runtime_version: str
    interface_versions: frozenset[int]
    capabilities: frozenset[str]
    dtypes: frozenset[DType]
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LayerCacheSpec:
    """The cache of one attention layer. Layers of one model may differ.

    Attributes:
        num_kv_heads: Hkv, the key/value heads.
        key_head_dim: D of the keys.
        value_head_dim: D of the values.
        dtype: Element type of both tensors.
        mode: "linear", or "circular" for a layer that keeps only its last ``capacity`` tokens.
        capacity: Positions per row if the graph fixes them, otherwise None.
    """

    num_kv_heads: int
    key_head_dim: int
    value_head_dim: int
    dtype: DType
    mode: CacheMode = "linear"
    capacity: int | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one row takes in this layer."""
        return self.num_kv_heads * (self.key_head_dim + self.value_head_dim) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class StateSpec:
    """What one layer keeps of a row besides keys and values: a tensor whose size no token changes.

    Attributes:
        kind: "conv" for the last inputs of a convolution, "recurrent" for the matrix of a recurrence.
        shape: The tensor of one row: (channels, K - 1) of a convolution of K columns, (heads, key size, value size)
            of a recurrence. What the graph names is what counts; other shapes are legal.
        dtype: Element type.
        layer: Number of the layer among those that keep states, in graph order; a recurrence and the convolution
            before it are one layer.
    """

    kind: StateKind
    shape: tuple[int, ...]
    dtype: DType
    layer: int

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the state of one row."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class CacheSpec:
    """The cache of a model.

    Attributes:
        style: How the graph keeps keys and values; without attention layers it says nothing.
        layout: The axes of the cache tensors.
        layers: One entry per attention layer, in graph order; empty for a model without attention.
        states: What the other layers keep, in graph order; empty for a model of attention alone.
    """

    style: CacheStyle
    layout: CacheLayout
    layers: tuple[LayerCacheSpec, ...]
    states: tuple[StateSpec, ...] = ()

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token of one row takes over all layers."""
        return sum(layer.bytes_per_token for layer in self.layers)

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the states of one row, which it takes whatever its length is; what one checkpoint of it costs."""
        return sum(state.bytes_per_row for state in self.states)

    def nbytes(self, batch_size: int, length: int, /) -> int:
        """Bytes of the buffers that hold so many tokens in each of so many rows.

        Layers whose capacity the graph fixes, circular ones among them, take all of it whatever the length is. States
        count twice: a step reads one buffer and writes another.
        """
        counted = ((layer, length if layer.capacity is None else layer.capacity) for layer in self.layers)
        return batch_size * (sum(layer.bytes_per_token * count for layer, count in counted) + 2 * self.bytes_per_row)

    @property
    def is_circular(self) -> bool:
        """Whether any layer wraps around."""
        return any(layer.mode == "circular" for layer in self.layers)

    @property
    def fixed_capacity(self) -> int | None:
        """The tokens per row that the graph itself allows, or None where it sets no bound.

        Circular layers set none: they forget instead of running full.
        """
        fixed = [layer.capacity for layer in self.layers if layer.mode == "linear" and layer.capacity is not None]
        return min(fixed, default=None)


@dataclass(frozen=True, slots=True, repr=False)
class ModelSpec(Displayed):
    """What a loaded model is, independent of the runtime.

    Attributes:
        vocab_size: V, the last axis of the logits.
        context_length: The most tokens that a sequence may have, or None where nothing bounds it.
        cache: The cache's shape.
    """

    vocab_size: int
    context_length: int | None
    cache: CacheSpec

    def display_facts(self) -> Mapping[str, object]:
        """What a console and a notebook show; a whole cache's layers would fill a screen."""
        return spec_facts(self)
