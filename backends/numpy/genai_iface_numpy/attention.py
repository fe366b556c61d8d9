# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Attention-23, -24 and -25 on NumPy, row by row and over the keys that count.

The operator's text, in its order: scale Q and K, Q times K transposed, softcap, add the bias (mask,
causal, window, padding), softmax, times V. Keys beyond a row's ``nonpad_kv_seqlen`` are not even read,
so a step costs by what the cache holds and not by how large its buffer is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.helper import tensor_dtype_to_np_dtype
from onnx.reference.op_run import OpRun

__all__ = ["Attention"]

_Array = NDArray[Any]


class Attention(OpRun):
    """The operator for ``onnx.reference``."""

    def _run(
        self,
        query: _Array,
        key: _Array,
        value: _Array,
        attn_mask: _Array | None = None,
        past_key: _Array | None = None,
        past_value: _Array | None = None,
        nonpad_kv_seqlen: NDArray[np.int64] | None = None,
        *,
        scale: float | None = None,
        is_causal: int = 0,
        q_num_heads: int | None = None,
        kv_num_heads: int | None = None,
        softmax_precision: int | None = None,
        softcap: float | None = None,
        qk_matmul_output_mode: int | None = None,
        left_window_size: int | None = None,
        right_window_size: int | None = None,
    ) -> tuple[_Array, ...]:
        is_rank_3 = query.ndim == 3
        if is_rank_3:
            if not q_num_heads or not kv_num_heads:
                raise ValueError("rank-3 inputs need the attributes q_num_heads and kv_num_heads")
            query, key, value = _split(query, q_num_heads), _split(key, kv_num_heads), _split(value, kv_num_heads)
        num_past = 0
        if past_key is not None and past_value is not None:
            num_past = past_key.shape[2]
            key, value = np.concatenate((past_key, key), axis=2), np.concatenate((past_value, value), axis=2)

        batch_size, num_heads, num_queries, head_dim = query.shape
        num_keys = key.shape[2]
        wants_scores = len(self.output) > 3 and bool(self.output[3])
        output: _Array = np.empty((batch_size, num_heads, num_queries, value.shape[3]), query.dtype)
        scores = np.empty((batch_size, num_heads, num_queries, num_keys), query.dtype) if wants_scores else None

        for row in range(batch_size):
            num_valid = num_keys if nonpad_kv_seqlen is None else min(int(nonpad_kv_seqlen[row]), num_keys)
            # The position of the first query: how many valid keys precede this block.
            offset = num_past if nonpad_kv_seqlen is None else int(nonpad_kv_seqlen[row]) - num_queries
            visible = _visible_keys(num_valid, num_queries, offset, bool(is_causal), left_window_size)
            if scores is not None:
                visible = slice(0, num_keys)  # the fourth output shows all columns
            bias = None
            # The range of keys alone says everything about a single causal query without a mask.
            if num_queries > 1 or not is_causal or attn_mask is not None or scores is not None:
                bias = _bias(
                    np.arange(visible.start, visible.stop),
                    num_queries,
                    offset,
                    num_valid=num_valid,
                    is_causal=bool(is_causal),
                    left=-1 if left_window_size is None else left_window_size,
                    right=-1 if right_window_size is None else right_window_size,
                    mask=_mask_of_row(attn_mask, row, num_keys),
                )
            output[row], shown = _attend(
                query[row],
                key[row, :, visible],
                value[row, :, visible],
                bias,
                scale=1.0 / np.sqrt(head_dim) if scale is None else scale,
                softcap=softcap or 0.0,
                softmax_precision=softmax_precision,
                shown_mode=qk_matmul_output_mode or 0,
            )
            if scores is not None:
                scores[row] = shown

        if is_rank_3:
            output = output.swapaxes(1, 2).reshape(batch_size, num_queries, -1)
        results = (output, key, value) if scores is None else (output, key, value, scores)
        return results[: max(1, len(self.output))]


def _split(tensor: _Array, num_heads: int) -> _Array:
    """(B, S, H * D) -> (B, H, S, D), without copying."""
    return tensor.reshape(*tensor.shape[:2], num_heads, -1).swapaxes(1, 2)


def _visible_keys(num_valid: int, num_queries: int, offset: int, is_causal: bool, left: int | None) -> slice:
    """The range of keys outside which no query of the block looks."""
    stop = min(num_valid, offset + num_queries) if is_causal else num_valid
    start = offset - left if left is not None and left >= 0 else 0
    stop = max(stop, 0)
    return slice(min(max(start, 0), stop), stop)


def _bias(
    keys: NDArray[np.int64],
    num_queries: int,
    offset: int,
    *,
    num_valid: int,
    is_causal: bool,
    left: int,
    right: int,
    mask: _Array | None,
) -> _Array | None:
    """What is added to the scores: (S, K) or (H, S, K), or None where nothing is forbidden.

    Args:
        keys: The positions of the K visible keys.
        num_queries: S; query i stands at position offset + i.
        offset: The position of query 0.
        num_valid: Keys from here on are padding.
        is_causal: Forbid keys behind the query.
        left: Forbid keys more than so far before the query; -1 for no bound.
        right: Forbid keys more than so far behind the query; -1 for no bound.
        mask: Boolean (True: attend) or additive, over all keys.
    """
    distance = (offset + np.arange(num_queries))[:, None] - keys
    allowed = np.broadcast_to(keys < num_valid, distance.shape)
    if is_causal:
        allowed = allowed & (distance >= 0)
    if left >= 0:
        allowed = allowed & (distance <= left)
    if right >= 0:
        allowed = allowed & (-distance <= right)
    if mask is not None:
        mask = mask[..., keys]
        if mask.dtype != np.bool_:
            return np.where(allowed, mask.astype(np.float32), -np.inf)
        allowed = allowed & mask
    return None if allowed.all() else np.where(allowed, np.float32(0), np.float32(-np.inf))


def _mask_of_row(mask: _Array | None, row: int, num_keys: int) -> _Array | None:
    """One row's mask as (S or 1, K) or (H or 1, S or 1, K), padded to K with "do not attend"."""
    if mask is None:
        return None
    if mask.ndim == 4:
        mask = mask[row if mask.shape[0] > 1 else 0]
    missing = num_keys - mask.shape[-1]
    # A last axis of 1 broadcasts; anything else that is short is padded.
    if missing > 0 and mask.shape[-1] != 1:
        fill = False if mask.dtype == np.bool_ else -np.inf
        mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=fill)
    return np.broadcast_to(mask, (*mask.shape[:-1], num_keys))


def _attend(
    query: _Array,
    key: _Array,
    value: _Array,
    bias: _Array | None,
    *,
    scale: float,
    softcap: float,
    softmax_precision: int | None,
    shown_mode: int,
) -> tuple[_Array, _Array]:
    """One row: query (H, S, D), key (Hkv, K, D), value (Hkv, K, Dv) -> output (H, S, Dv), scores (H, S, K).

    Half precision is what queries, keys and values are stored in: between them and the output everything is float32,
    as in the runtimes' kernels, so that no score overflows and no long sum loses its last digits.
    """
    num_heads, num_queries, head_dim = query.shape
    num_kv_heads, num_keys, _ = key.shape
    dtype = query.dtype
    if dtype.itemsize < 4:
        query, key, value = (each.astype(np.float32) for each in (query, key, value))
    computed = query.dtype
    # Query heads that share a key head form one block of rows for the matrix product.
    grouped = (num_kv_heads, num_heads // num_kv_heads * num_queries)

    query = query * computed.type(scale)
    scores = query.reshape(*grouped, head_dim) @ key.swapaxes(1, 2)
    scores = scores.reshape(num_heads, num_queries, num_keys)
    shown = scores
    if softcap > 0:
        scores = np.tanh(scores / computed.type(softcap)) * computed.type(softcap)
        shown = scores if shown_mode == 1 else shown
    if bias is not None:
        scores = scores + bias.astype(computed, copy=False)
    shown = scores if shown_mode == 2 else shown

    precision = computed if softmax_precision is None else tensor_dtype_to_np_dtype(softmax_precision)
    weights = _softmax(scores.astype(precision, copy=False), bias).astype(computed, copy=False)
    shown = weights if shown_mode == 3 else shown
    output = weights.reshape(*grouped, num_keys) @ value
    return output.reshape(num_heads, num_queries, -1).astype(dtype, copy=False), shown.astype(dtype, copy=False)


def _softmax(scores: _Array, bias: _Array | None) -> _Array:
    """Softmax over the last axis; a row that may attend to nothing becomes zeros, not NaN."""
    if scores.shape[-1] == 0:
        return scores
    if bias is None:
        weights: _Array = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights
    is_masked = np.isneginf(bias.max(axis=-1, keepdims=True))
    peak = np.where(is_masked, np.zeros((), scores.dtype), scores.max(axis=-1, keepdims=True))
    weights = np.where(is_masked, np.zeros((), scores.dtype), np.exp(scores - peak))
    total = weights.sum(axis=-1, keepdims=True)
    weights /= np.where(total == 0, np.ones((), scores.dtype), total)
    return weights
