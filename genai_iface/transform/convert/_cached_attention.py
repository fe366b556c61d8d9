# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Reads the attention layers of a graph with past/present tensors: what they compute, however it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.graph._attention import AttentionUse, attention_uses
from genai_iface.graph._walk import (
    attribute,
    describe,
    input_at,
    is_op,
    op,
    output_at,
    rank,
    static_dim,
    unsupported,
)
from genai_iface.graph.signature import GraphSignature
from genai_iface.transform._graph_probe import GraphProbe
from genai_iface.transform.convert._decomposed_attention import read_decomposed
from genai_iface.transform.convert._mask_probe import HIDDEN, MaskClass, classify_mask
from genai_iface.types import LayerCacheSpec

__all__ = ["AttentionRead", "CacheLayer", "read_cache_layers"]

_KEEP = "Keep the past/present model, or export it with one Attention operator for each layer (opset 23 or later)."
_TOKENS = 5


@dataclass(frozen=True, slots=True)
class AttentionRead:
    """One attention over a cache.

    Attributes:
        form: How it is written, for reports.
        end: The node whose first output is the result.
        query: (B, H, S, D), or (B, S, H * D).
        rank: Rank of the query and of the result.
        num_heads: H, 0 where the graph does not say and nothing needs it.
        scale: The factor on the scores.
        softcap: 0 for none.
        mask: What is hidden.
        softmax_precision: ONNX element type, 0 for that of the query.
    """

    form: str
    end: ir.Node
    query: ir.Value
    rank: int
    num_heads: int
    scale: float
    softcap: float
    mask: MaskClass
    softmax_precision: int = 0


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """The cache of one layer and everything that reads it.

    Attributes:
        index: The index of the layer, from 0.
        spec: Heads, head sizes, type and capacity.
        past_key, past_value: The graph inputs that hold the cache.
        present_key, present_value: What is written, graph outputs.
        new_key, new_value: The step's own keys and values.
        readers: One attention, or more where layers share a cache.
    """

    index: int
    spec: LayerCacheSpec
    past_key: ir.Value
    past_value: ir.Value
    present_key: ir.Value
    present_value: ir.Value
    new_key: ir.Value
    new_value: ir.Value
    readers: tuple[AttentionRead, ...]


def read_cache_layers(
    model: ir.Model,
    signature: GraphSignature,
    probe: GraphProbe,
    numbers: Iterable[int] = (),
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
) -> list[CacheLayer]:
    """Reads every layer.

    Args:
        model: The model, shapes inferred.
        signature: Its signature, cache style "concat" or "scatter".
        probe: Runs parts of it.
        numbers: Integers of config.json, a sliding window perhaps among them.
        progress: Called with (layers read, all layers).
        limit: Positions that config.json gives the model; nothing is run beyond them.

    Raises:
        UnsupportedModelError: A layer computes something that the standard operators do not; the message names the
            node.
    """
    values = ir.convenience.create_value_mapping(model.graph)
    reader = _Reader(signature, probe, tuple(numbers), limit)
    layers: list[CacheLayer] = []
    pairs = list(zip(signature.cache_tensors[0::2], signature.cache_tensors[1::2], strict=True))
    for key, value in pairs:
        names = (key.past, value.past, key.present, value.present)
        layers.append(reader.layer(key.layer, *(values[name] for name in names)))
        if progress is not None:
            progress(len(layers), len(pairs))
    return layers


class _Reader:
    """Reads one layer after the other; a mask that several layers use is classified once."""

    def __init__(
        self, signature: GraphSignature, probe: GraphProbe, numbers: tuple[int, ...], limit: int | None
    ) -> None:
        self._signature, self._probe, self._numbers, self._limit = signature, probe, numbers, limit
        self._axis = 2 if signature.cache.layout == "bnsh" else 1
        self._masks: dict[tuple[Any, ...], MaskClass] = {}

    def layer(
        self, index: int, past_key: ir.Value, past_value: ir.Value, present_key: ir.Value, present_value: ir.Value
    ) -> CacheLayer:
        """Reads the layer of these cache tensors."""
        spec = self._signature.cache.layers[index]
        key_writer, value_writer = present_key.producer(), present_value.producer()
        if key_writer is None or value_writer is None:
            raise unsupported(f"No node computes the cache outputs of layer {index}", _KEEP)
        if is_op(key_writer, "Concat"):
            new_key, new_value = (
                self._appended(writer, past) for writer, past in ((key_writer, past_key), (value_writer, past_value))
            )
            readers = self._readers(spec, present_key, present_value)
        elif is_op(key_writer, "TensorScatter"):
            new_key, new_value = self._written(key_writer, past_key), self._written(value_writer, past_value)
            readers = self._readers(spec, present_key, present_value)
        elif is_op(key_writer, "Attention") and key_writer is value_writer:
            new_key, new_value, readers = self._own_past(key_writer, spec, present_key, present_value)
        else:
            raise unsupported(
                f"The {describe(key_writer)} writes the cache of layer {index}, expected Concat, TensorScatter or "
                "Attention",
                _KEEP,
            )
        return CacheLayer(
            index, spec, past_key, past_value, present_key, present_value, new_key, new_value, tuple(readers)
        )

    def _appended(self, writer: ir.Node, past: ir.Value) -> ir.Value:
        """The new tokens that a Concat puts after the past ones."""
        axes = self._axis + 2
        if (
            not is_op(writer, "Concat")
            or len(writer.inputs) != 2
            or writer.inputs[0] is not past
            or writer.inputs[1] is None
            or attribute(writer, "axis", 0) % axes != self._axis
        ):
            raise unsupported(
                f"The {describe(writer)} does not put new tokens after those of {past.name!r}, expected "
                f"Concat(past, new) on axis {self._axis}",
                _KEEP,
            )
        if len(tuple(past.uses())) != len([use for use in past.uses() if is_op(use.node, "Concat", "Shape")]):
            raise unsupported(f"{past.name!r} has another reader than its Concat", _KEEP)
        return writer.inputs[1]

    def _written(self, writer: ir.Node, past: ir.Value) -> ir.Value:
        """The new tokens that a TensorScatter writes at each row's length."""
        indices, new = input_at(writer, 2), input_at(writer, 1)
        if not is_op(writer, "TensorScatter") or indices is None or new is None:
            raise unsupported(f"The {describe(writer)} is not a TensorScatter with write_indices", _KEEP)
        (starts,) = self._probe.run([indices], 4, 3)
        if starts.tolist() != [4, 4]:
            raise unsupported(f"The {describe(writer)} does not write at each row's length, but at {starts}", _KEEP)
        return new

    def _own_past(
        self, node: ir.Node, spec: LayerCacheSpec, present_key: ir.Value, present_value: ir.Value
    ) -> tuple[ir.Value, ir.Value, list[AttentionRead]]:
        """Attention with past_key and past_value."""
        new_key, new_value = input_at(node, 1), input_at(node, 2)
        if new_key is None or new_value is None:
            raise unsupported(f"The {describe(node)} has no keys or values of its own", _KEEP)
        mine = self._operator(node, spec, "Attention with past inputs", offset=True)
        return new_key, new_value, [mine, *self._readers(spec, present_key, present_value, missing=True)]

    def _readers(
        self, spec: LayerCacheSpec, present_key: ir.Value, present_value: ir.Value, *, missing: bool = False
    ) -> list[AttentionRead]:
        """Every attention that reads the present tensors."""
        keys = {use.anchor: use for use in attention_uses(present_key) if use.kind == "key"}
        values = {use.anchor: use for use in attention_uses(present_value) if use.kind == "value"}
        if keys.keys() != values.keys() or (not keys and not missing):
            raise unsupported(
                f"{present_key.name!r} and {present_value.name!r} are not read by the same attention", _KEEP
            )
        readers = []
        for anchor, key in keys.items():
            value = values[anchor]
            if is_op(anchor, "Attention"):
                self._check_path(key, spec, spec.key_head_dim, present_key)
                factor = self._check_path(value, spec, spec.value_head_dim, present_value)
                if factor != 1.0:
                    raise unsupported(f"The values of the {describe(anchor)} are scaled by {factor}", _KEEP)
                form = f"{op(writer)} and Attention" if (writer := present_key.producer()) else "Attention"
                readers.append(self._operator(anchor, spec, form, offset=self._counts_from_past(anchor)))
            elif is_op(anchor, "Softmax"):
                readers.append(self._decomposed(key, value, spec, present_key, present_value))
            else:
                raise unsupported(f"The cache is read by the {describe(anchor)}, expected Attention or Softmax", _KEEP)
        return readers

    def _decomposed(
        self,
        key: AttentionUse,
        value: AttentionUse,
        spec: LayerCacheSpec,
        present_key: ir.Value,
        present_value: ir.Value,
    ) -> AttentionRead:
        key_factor = self._check_path(key, spec, spec.key_head_dim, present_key)
        if self._check_path(value, spec, spec.value_head_dim, present_value) != 1.0:
            raise unsupported(f"The values that the {describe(value.reader)} reads are scaled", _KEEP)
        found = read_decomposed(self._probe, key, value)
        mask = self._class_of(
            ("scores", key.reader),
            found.visible,
            f"attention around the {describe(key.anchor)}",
            self._probe.integers_before([found.scores_in], beside=[found.product]),
        )
        return AttentionRead(
            form="Concat, MatMul and Softmax",
            end=value.reader,
            query=found.query,
            rank=4,
            num_heads=found.num_heads,
            scale=_plain_scale(found.scale * key_factor, spec.key_head_dim),
            softcap=found.softcap,
            mask=mask,
            softmax_precision=found.softmax_precision,
        )

    def _operator(self, node: ir.Node, spec: LayerCacheSpec, form: str, *, offset: bool) -> AttentionRead:
        """An Attention node."""
        query, mask = input_at(node, 0), input_at(node, 3)
        if query is None or output_at(node, 3) is not None:
            raise unsupported(f"The {describe(node)} gives its scores to others", _KEEP)
        axes = rank(query) or (4 if self._axis == 2 else 3)
        heads = attribute(node, "q_num_heads", 0) if axes == 3 else static_dim(query, 1) or 0
        causal, left = attribute(node, "is_causal", 0), attribute(node, "left_window_size", -1)

        def visible(past: int, new: int, batch: int) -> NDArray[Any]:
            total = past + new
            distance = (np.arange(new) + (past if offset else 0))[:, None] - np.arange(total)
            seen = np.broadcast_to(np.array(True), (1, 1, new, total))
            if causal:
                seen = seen & (distance >= 0)
            if left >= 0:
                seen = seen & (distance <= left)
            if mask is not None:
                (given,) = self._probe.run([mask], past, new, batch=batch)
                seen = seen & _allowed(given, total, node)
            return seen

        key = ("operator", None if mask is None else mask.name, causal, left, offset)
        before = self._probe.integers_before([] if mask is None else [mask])
        found = self._class_of(key, visible, describe(node), before | {left})
        return AttentionRead(
            form=form,
            end=node,
            query=query,
            rank=axes,
            num_heads=heads,
            scale=_plain_scale(attribute(node, "scale", spec.key_head_dim**-0.5), spec.key_head_dim),
            softcap=attribute(node, "softcap", 0.0),
            mask=found,
            softmax_precision=attribute(node, "softmax_precision", 0),
        )

    def _counts_from_past(self, node: ir.Node) -> bool:
        """Whether causality counts from the valid length; without nonpad_kv_seqlen it does from position 0."""
        lengths = input_at(node, 6)
        if lengths is None:
            return False
        (valid,) = self._probe.run([lengths], 4, 3)
        if valid.tolist() != [7, 7]:
            raise unsupported(f"nonpad_kv_seqlen of the {describe(node)} is {valid} with 3 tokens after 4", _KEEP)
        return True

    def _class_of(
        self,
        key: tuple[Any, ...],
        visible: Callable[[int, int, int], NDArray[Any]],
        what: str,
        numbers: set[int],
    ) -> MaskClass:
        if key not in self._masks:
            self._masks[key] = classify_mask(visible, {*numbers, *self._numbers}, what, limit=self._limit)
        return self._masks[key]

    def _check_path(self, use: AttentionUse, spec: LayerCacheSpec, size: int, present: ir.Value) -> float:
        """Shows, by running it, that a path only repeats heads and changes the layout; gives its factor."""
        target = _entry(use, present)
        if target is present:
            return 1.0
        heads = spec.num_kv_heads
        cache = np.random.default_rng(0).uniform(0.5, 1.5, (2, heads, _TOKENS, size))
        flat = cache if self._axis == 2 else cache.swapaxes(1, 2).reshape(2, _TOKENS, -1)
        given = {present: flat.astype(getattr(ml_dtypes, spec.dtype, spec.dtype))}
        (got,) = self._probe.run([target], _TOKENS - 2, 2, given=given)
        got = got.astype(np.float64)
        if got.ndim == 3 and is_op(use.reader, "Attention"):
            parts = attribute(use.reader, "kv_num_heads", heads)
            got = got.reshape(2, _TOKENS, parts, -1).swapaxes(1, 2)
        elif use.kind == "key" and is_op(use.reader, "MatMul"):
            got = got.swapaxes(-1, -2)
        if got.ndim == 3 and got.shape[0] > 2 and is_op(use.reader, "MatMul"):
            raise unsupported(
                f"The {describe(use.reader)} works on rows and heads folded into one axis, {tuple(got.shape)}", _KEEP
            )
        good = got.ndim == 4 and got.shape[0] == 2 and got.shape[2:] == cache.shape[2:] and got.shape[1] % heads == 0
        if good:
            wanted = np.repeat(cache, got.shape[1] // heads, axis=1)
            factor = float(np.median(got / wanted))
            tolerance = 1e-5 if spec.dtype == "float32" else 2e-2
            if np.allclose(got, factor * wanted, rtol=tolerance):
                return 1.0 if abs(factor - 1) < tolerance else factor
        raise unsupported(
            f"Between {present.name!r} and the {describe(use.reader)} there is more than repeated heads and a change "
            f"of layout (through {', '.join(map(op, use.path))}; {tuple(flat.shape)} becomes {tuple(got.shape)})",
            _KEEP,
        )


def _entry(use: AttentionUse, present: ir.Value) -> ir.Value:
    """The input by which a path enters its reader."""
    last = present if not use.path else None
    for source in use.reader.inputs:
        if source is not None and (source is last or (use.path and source.producer() is use.path[-1])):
            return source
    raise unsupported(f"The {describe(use.reader)} does not read {present.name!r}", _KEEP)


def _allowed(given: NDArray[Any], total: int, node: ir.Node) -> NDArray[Any]:
    """A mask input as bool (..., new, total)."""
    if given.shape[-1] not in (1, total):
        missing = total - given.shape[-1]
        fill = False if given.dtype == np.bool_ else -np.inf
        given = np.pad(given, [(0, 0)] * (given.ndim - 1) + [(0, missing)], constant_values=fill)
    if given.dtype != np.bool_:
        numbers = given.astype(np.float64)
        allowed = numbers > HIDDEN
        biased = np.argwhere(allowed & (numbers != 0))
        if len(biased):
            place = tuple(int(index) for index in biased[0])
            raise unsupported(
                f"The mask of the {describe(node)} adds {numbers[place]:.4g} to a score, first at query {place[-2]}, "
                f"key {place[-1]}: a bias by position (ALiBi), which is not a mask",
                _KEEP,
            )
        given = allowed
    return given.reshape((1,) * (4 - given.ndim) + given.shape)


def _plain_scale(scale: float, head_dim: int) -> float:
    """The scale, exactly 1 / sqrt(D) where rounding alone set it apart."""
    plain = float(head_dim) ** -0.5
    return plain if abs(scale - plain) < 1e-6 * plain else scale
