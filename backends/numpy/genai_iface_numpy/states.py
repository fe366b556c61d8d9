# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The operators that keep states on NumPy: LinearAttention-27 and CausalConvWithState-27.

LinearAttention goes token by token over all rows and heads at once. Each key/value head of a row has a matrix
S (Dk, Dv). A token lets it fade, writes one outer product into it and reads it with its query:

    S = exp(decay) * S             gated, gated_delta: one decay per head, or one per key channel
    u = value                      linear, gated
    u = beta * (value - key @ S)   delta, gated_delta: what the matrix does not know yet of this key
    S = S + outer(key, u)
    output = scale * query @ S

Everything is computed in float32; the output has the type of the query, the state keeps its own.

CausalConvWithState is each channel's own short filter over its last inputs. With a kernel of K columns, output s sees
the inputs s - K + 1 .. s. Those before the step are the state, (B, C, K - 1); what the last K - 1 are after it, is the
new one. The filter is computed in float32 and rounded once, the state is moved and not computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

__all__ = ["CausalConvWithState", "LinearAttention"]

_Array = NDArray[Any]
_Float32 = NDArray[np.float32]

# (needs decay, needs beta)
_RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}


class LinearAttention(OpRun):
    """LinearAttention for ``onnx.reference``; as kernels do, it takes fewer query heads than value heads too."""

    def _run(
        self,
        query: _Array,
        key: _Array,
        value: _Array,
        past_state: _Array | None = None,
        decay: _Array | None = None,
        beta: _Array | None = None,
        *,
        q_num_heads: int,
        kv_num_heads: int,
        update_rule: str | None = None,
        scale: float | None = None,
        chunk_size: int | None = None,
    ) -> tuple[_Array, _Array]:
        rule = update_rule or "gated_delta"
        _check(rule, decay, beta)
        queries, keys = _heads(query, q_num_heads), _heads(key, _key_heads(query, key, q_num_heads, kv_num_heads))
        values = _heads(value, kv_num_heads)
        # Heads may share: several queries read one matrix, or several matrices are read by one query.
        num_heads = max(q_num_heads, kv_num_heads)
        keys = _repeated(keys, kv_num_heads)
        shape = (len(query), kv_num_heads, keys.shape[-1], values.shape[-1])
        state = np.zeros(shape, np.float32) if past_state is None else past_state.astype(np.float32)
        if state.shape != shape:
            raise ValueError(f"past_state has the shape {state.shape}, expected {shape}")
        fades = None if decay is None else np.exp(_fading(decay, kv_num_heads, keys.shape[-1]))
        rates = None if beta is None else beta.astype(np.float32)
        queries = _repeated(queries, num_heads) * np.float32(scale or keys.shape[-1] ** -0.5)
        output = np.empty((*query.shape[:2], num_heads, values.shape[-1]), np.float32)
        for token in range(query.shape[1]):
            if fades is not None:
                state = fades[:, token, :, :, None] * state
            update = values[:, token]
            if rates is not None:
                known = np.matmul(keys[:, token, :, None, :], state)[:, :, 0]
                update = rates[:, token, :, None] * (update - known)
            state = state + keys[:, token, :, :, None] * update[:, :, None, :]
            output[:, token] = np.matmul(queries[:, token, :, None, :], _repeated_heads(state, num_heads))[:, :, 0]
        given = query.dtype if past_state is None else past_state.dtype
        return output.reshape(*query.shape[:2], -1).astype(query.dtype), state.astype(given)


def _check(rule: str, decay: _Array | None, beta: _Array | None) -> None:
    if rule not in _RULES:
        raise ValueError(f"update_rule is {rule!r}, expected one of {', '.join(_RULES)}")
    for name, given, needed in zip(("decay", "beta"), (decay, beta), _RULES[rule], strict=True):
        if (given is not None) != needed:
            raise ValueError(f"update_rule {rule!r} {'needs' if needed else 'takes no'} {name}")


def _heads(packed: _Array, num_heads: int) -> _Float32:
    """(B, S, H * D) as (B, S, H, D)."""
    return packed.astype(np.float32).reshape(*packed.shape[:2], num_heads, -1)


def _key_heads(query: _Array, key: _Array, q_num_heads: int, kv_num_heads: int) -> int:
    """The heads of the keys: those of the values, or as few as the queries have where these are fewer."""
    size = query.shape[-1] // q_num_heads
    return key.shape[-1] // size if q_num_heads < kv_num_heads else kv_num_heads


def _repeated(heads: _Float32, num_heads: int) -> _Float32:
    """(B, S, H, D) with each head as often as it is shared."""
    return heads if heads.shape[2] >= num_heads else np.repeat(heads, num_heads // heads.shape[2], axis=2)


def _repeated_heads(state: _Float32, num_heads: int) -> _Float32:
    """(B, H, Dk, Dv) with each matrix as often as it is read."""
    return state if state.shape[1] == num_heads else np.repeat(state, num_heads // state.shape[1], axis=1)


def _fading(decay: _Array, num_heads: int, key_size: int) -> _Float32:
    """Decay as (B, S, H, Dk), or (B, S, H, 1) where a head has one for all channels."""
    if decay.shape[-1] not in (num_heads, num_heads * key_size):
        raise ValueError(f"decay is {decay.shape[-1]} wide, expected {num_heads} or {num_heads * key_size}")
    return decay.astype(np.float32).reshape(*decay.shape[:2], num_heads, -1)


class CausalConvWithState(OpRun):
    """CausalConvWithState for ``onnx.reference``."""

    def _run(
        self,
        inputs: _Array,
        weight: _Array,
        bias: _Array | None = None,
        past_state: _Array | None = None,
        *,
        activation: str | None = None,
    ) -> tuple[_Array, _Array]:
        if activation not in (None, "", "none", "silu", "swish"):
            raise ValueError(f"activation is {activation!r}, expected none, silu or swish")
        kernel = weight.shape[-1]
        shape = (*inputs.shape[:2], kernel - 1)
        past = np.zeros(shape, inputs.dtype) if past_state is None else past_state
        if past.shape != shape or weight.shape != (inputs.shape[1], 1, kernel):
            raise ValueError(
                f"input {inputs.shape}, weight {weight.shape} and past_state {past.shape} do not fit together"
            )
        joined = np.concatenate((past, inputs), axis=2)
        windows = sliding_window_view(joined.astype(np.float32), kernel, axis=2)
        output = np.einsum("bcsk,ck->bcs", windows, weight[:, 0].astype(np.float32))
        if bias is not None:
            output += bias.astype(np.float32)[:, None]
        if activation in ("silu", "swish"):
            output = output / (1 + np.exp(-output))
        return output.astype(inputs.dtype), joined[:, :, inputs.shape[2] :].copy()
