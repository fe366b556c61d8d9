# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Single-operator cases of level 1, with results computed in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

__all__ = ["Case", "operator_cases"]

_Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One node, its inputs and what it must give.

    Attributes:
        inputs: By position; None for an absent one.
        outputs: What is expected, in order.
        exact: Whether the result must be equal bit by bit.
        reduction_length: Terms of the longest sum.
    """

    name: str
    op: str
    inputs: Sequence[_Array | None]
    outputs: Sequence[_Array]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False
    reduction_length: int = 1

    def model(self) -> onnx.ModelProto:
        """The node as a model; inputs are x0, x1, ..., outputs y0, y1, ..."""
        names = [f"x{index}" if array is not None else "" for index, array in enumerate(self.inputs)]
        results = [f"y{index}" for index in range(len(self.outputs))]
        node = helper.make_node(self.op, names, results, **self.attributes)
        graph = helper.make_graph(
            [node],
            self.name,
            [_info(name, array) for name, array in zip(names, self.inputs, strict=True) if array is not None],
            [_info(name, array) for name, array in zip(results, self.outputs, strict=True)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
        onnx.checker.check_model(model, full_check=True)
        return model


def operator_cases() -> list[Case]:
    """All cases."""
    return [*_attention_cases(), *_scatter_cases(), *_rotary_cases(), *_norm_cases()]


def _info(name: str, array: _Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _random(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _attend(
    q: _Array,
    k: _Array,
    v: _Array,
    visible: _Array | None = None,
    *,
    bias: _Array | float = 0.0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> NDArray[np.float32]:
    """(B, H, S, Dv): queries over the visible keys; a query that sees none gives 0."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(array.astype(np.float64), group, axis=1) for array in (k, v))
    scores = q.astype(np.float64) @ k.swapaxes(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
    if softcap:
        scores = np.tanh(scores / softcap) * softcap
    scores = scores + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    if visible is not None:
        weights = np.where(visible, weights, 0)
    total = weights.sum(-1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0) @ v, np.float32)


def _attention_cases() -> list[Case]:
    q, k, v = _random(1, 2, 4, 3, 8), _random(2, 2, 2, 5, 8), _random(3, 2, 2, 5, 8)
    # A cache of 8 positions, three new tokens in each row, rows with 3 and 7 valid positions after the write.
    k8, v8, nonpad = _random(4, 2, 2, 8, 8), _random(5, 2, 2, 8, 8), np.array([3, 7])
    positions, steps = np.arange(8), np.arange(3)
    bottom_right = positions <= (nonpad - 3)[:, None, None, None] + steps[:, None]
    keep = np.random.default_rng(6).random((3, 5)) < 0.6
    keep[:, 0] = True
    none_visible = keep.copy()
    none_visible[1] = False
    bias = _random(7, 3, 5)
    past_k, past_v = _random(8, 2, 2, 2, 8), _random(9, 2, 2, 2, 8)
    # As many new keys as queries: with more of them, runtimes disagree about the offset, and no decoder has that.
    k_new, v_new = k[:, :, :3].copy(), v[:, :, :3].copy()
    k_all, v_all = np.concatenate((past_k, k_new), axis=2), np.concatenate((past_v, v_new), axis=2)
    after_past = np.arange(5) <= np.arange(3)[:, None] + 2
    q3, k3, v3 = (array.swapaxes(1, 2).reshape(2, array.shape[2], -1) for array in (q, k, v))
    wide = _random(10, 1, 2, 2, 256), _random(11, 1, 1, 4, 256), _random(12, 1, 1, 4, 256)
    square = np.arange(5) <= np.arange(3)[:, None]

    def case(name: str, inputs: Sequence[_Array | None], output: _Array, *more: _Array, **attributes: Any) -> Case:
        length = next(array for array in inputs if array is not None).shape[-1] + 8
        return Case(
            name=f"attention.{name}",
            op="Attention",
            inputs=inputs,
            outputs=[output, *more],
            attributes=attributes,
            reduction_length=length,
        )

    rank3 = {"q_num_heads": 4, "kv_num_heads": 2}
    return [
        case("rank4", [q, k, v], _attend(q, k, v)),
        case("rank3", [q3, k3, v3], _attend(q, k, v).swapaxes(1, 2).reshape(2, 3, -1), **rank3),
        case("head_dim_256", wide, _attend(*wide)),
        case("multi_query", [q, k[:, :1], v[:, :1]], _attend(q, k[:, :1], v[:, :1])),
        case("scale", [q, k, v], _attend(q, k, v, scale=0.1), scale=0.1),
        case("softcap", [q, k, v], _attend(q, k, v, softcap=0.5), softcap=0.5),
        case("causal", [q, k, v], _attend(q, k, v, square), is_causal=1),
        case(
            "causal_past",
            [q, k_new, v_new, None, past_k, past_v],
            _attend(q, k_all, v_all, after_past),
            k_all,
            v_all,
            is_causal=1,
        ),
        case(
            "causal_nonpad",
            [q, k8, v8, None, None, None, nonpad],
            _attend(q, k8, v8, bottom_right),
            is_causal=1,
        ),
        case(
            "nonpad",
            [q, k8, v8, None, None, None, nonpad],
            _attend(q, k8, v8, positions < nonpad[:, None, None, None]),
        ),
        case("mask_bool", [q, k, v, keep], _attend(q, k, v, keep)),
        case("mask_float", [q, k, v, bias], _attend(q, k, v, bias=bias)),
        case("mask_all_hidden", [q, k, v, none_visible], _attend(q, k, v, none_visible)),
    ]


def _scatter_cases() -> list[Case]:
    cache, update = _random(20, 3, 2, 6, 4), _random(21, 3, 2, 2, 4)

    def written(indices: Sequence[int], *, wrap: bool = False) -> _Array:
        result = cache.copy()
        for row, begin in enumerate(indices):
            for step in range(update.shape[2]):
                position = (begin + step) % 6 if wrap else begin + step
                result[row, :, position] = update[row, :, step]
        return result

    def case(name: str, inputs: Sequence[_Array | None], output: _Array, **attributes: Any) -> Case:
        return Case(
            name=f"tensor_scatter.{name}",
            op="TensorScatter",
            inputs=inputs,
            outputs=[output],
            attributes=attributes,
            exact=True,
        )

    rows, last, wrapping = (np.array(values) for values in ([0, 3, 1], [4, 4, 4], [5, 4, 11]))
    flat = (array.swapaxes(1, 2).reshape(3, array.shape[2], -1) for array in (cache, update, written([0, 3, 1])))
    cache3, update3, written3 = flat
    return [
        case("per_row_indices", [cache, update, rows], written([0, 3, 1]), axis=2),
        case("default_axis", [cache, update, rows], written([0, 3, 1])),
        case("rank3", [cache3, update3, rows], written3, axis=1),
        case("no_indices", [cache, update], written([0, 0, 0]), axis=2),
        case("last_slots", [cache, update, last], written([4, 4, 4]), axis=2),
        case("circular", [cache, update, wrapping], written([5, 4, 11], wrap=True), axis=2, mode="circular"),
    ]


def _rotary_cases() -> list[Case]:
    x = _random(30, 2, 3, 4, 8)
    ids = np.array([[0, 1, 2, 3], [5, 6, 7, 8]])
    angles = np.arange(10)[:, None] * 10.0 ** (-np.arange(4) / 4)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def rotated(size: int, *, interleaved: bool = False) -> NDArray[np.float32]:
        c, s = (table[ids][:, None, :, : size // 2].astype(np.float64) for table in (cos, sin))
        result = x.astype(np.float64)
        part = result[..., :size]
        first, second = (part[..., 0::2], part[..., 1::2]) if interleaved else np.split(part, 2, axis=-1)
        left, right = first * c - second * s, second * c + first * s
        if interleaved:
            rolled = np.stack((left, right), axis=-1).reshape(part.shape)
        else:
            rolled = np.concatenate((left, right), axis=-1)
        return np.concatenate((rolled, result[..., size:]), axis=-1).astype(np.float32)

    def case(name: str, inputs: Sequence[_Array | None], output: _Array, **attributes: Any) -> Case:
        return Case(
            name=f"rotary_embedding.{name}",
            op="RotaryEmbedding",
            inputs=inputs,
            outputs=[output],
            attributes=attributes,
            reduction_length=2,
        )

    flat = x.swapaxes(1, 2).reshape(2, 4, -1)
    per_row = [cos[ids], sin[ids]]
    half = {"rotary_embedding_dim": 4, "num_heads": 3}
    return [
        case("rank4", [x, cos, sin, ids], rotated(8)),
        case("rank3", [flat, cos, sin, ids], rotated(8).swapaxes(1, 2).reshape(2, 4, -1), num_heads=3),
        case("partial", [x, cos[:, :2].copy(), sin[:, :2].copy(), ids], rotated(4), **half),
        case("interleaved", [x, cos, sin, ids], rotated(8, interleaved=True), interleaved=1),
        case("no_position_ids", [x, *per_row], rotated(8)),
    ]


def _norm_cases() -> list[Case]:
    x, scale = _random(40, 2, 3, 16), 1 + _random(41, 16) / 4

    def normed(axes: tuple[int, ...], weight: _Array, epsilon: float) -> NDArray[np.float32]:
        exact = x.astype(np.float64)
        mean = (exact * exact).mean(axes, keepdims=True)
        return np.asarray(exact / np.sqrt(mean + epsilon) * weight, np.float32)

    def case(name: str, weight: _Array, output: _Array, **attributes: Any) -> Case:
        return Case(
            name=f"rms_normalization.{name}",
            op="RMSNormalization",
            inputs=[x, weight],
            outputs=[output],
            attributes=attributes,
            reduction_length=48,
        )

    two = 1 + _random(42, 3, 16) / 4
    return [
        case("last_axis", scale, normed((2,), scale, 1e-5)),
        case("two_axes", two, normed((1, 2), two, 1e-5), axis=1),
        case("epsilon", scale, normed((2,), scale, 0.5), epsilon=0.5),
    ]
