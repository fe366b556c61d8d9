# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N803 - Transformers passes arguments by these names.
"""What a traced network calls instead of Transformers' own convolutions and recurrences.

Transformers has them as functions of its modelling files, under the same names in every file. Each one here takes the
arguments of that name and gives what it gives, by one of the two operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from genai_iface.build.methods.standard_cache import OPSET
from genai_iface.build.states.operators import convolve, recur
from genai_iface.build.states.step_states import StepStates

__all__ = ["lightning_attention", "state_functions"]

_EPSILON = 1e-6


def state_functions(states: StepStates) -> dict[str, Callable[..., Any]]:
    """The functions by the names that modelling files give them."""
    return {
        "causal_conv1d_fn": partial(_convolution, states),
        "torch_chunk_gated_delta_rule": partial(_delta_rule, states),
        "chunk_kimi_delta_attention": partial(_delta_rule, states),
        "mamba2_chunk_scan": partial(_state_space, states),
        "mamba_selective_scan": partial(_selective_scan, states),
    }


def _convolution(
    states: StepStates,
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """(B, C, S) to (B, C, S)."""
    return convolve(states, hidden_states, weight, bias, activation)


def _delta_rule(
    states: StepStates,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    *_: Any,
    use_qk_l2norm_in_kernel: bool = False,
    **__: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gated delta rule, with a decay for each head (B, S, H) or for each of its key channels (B, S, H, Dk)."""
    query, key = query.float(), key.float()
    if use_qk_l2norm_in_kernel:
        query, key = _normalized(query), _normalized(key)
    # The operator knows fewer key and value heads than query heads, not fewer queries and keys than values.
    query, key = (_repeated(part, value.shape[2]) for part in (query, key))
    decay = g if g.ndim == 3 else g.flatten(2)
    output, state = recur(states, "gated_delta", query, key, value, decay, beta, scale=1 / math.sqrt(key.shape[3]))
    return output.to(value.dtype), state


def _state_space(
    states: StepStates,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    *_: Any,
    D: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    return_final_states: bool = False,
    **__: Any,
) -> Any:
    """Mamba-2: the matrix fades by dt * A, takes B and dt * x in, and is read with C; D lets x through beside it."""
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    if dt_softplus:
        dt = functional.softplus(dt)
    if dt_limit[0] > 0 or dt_limit[1] != math.inf:
        dt = torch.clamp(dt, min=dt_limit[0], max=dt_limit[1])
    dt, inputs = dt.float(), hidden_states.float()
    keys, queries = (_repeated(part.float(), inputs.shape[2]) for part in (B, C))
    output, state = recur(states, "gated", queries, keys, inputs * dt[..., None], dt * A.float(), scale=1.0)
    if D is not None:
        output = output + inputs * D[..., None]
    return (output, state) if return_final_states else output


def _selective_scan(
    states: StepStates,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """Mamba-1: every channel is a head with values of size 1, and each element of its state fades at its own rate."""
    if delta_bias is not None:
        dt = dt + delta_bias.to(dt.dtype)[..., None]
    if delta_softplus:
        dt = functional.softplus(dt)
    batch, channels, length = hidden_states.shape
    rates, inputs = (part.float().transpose(1, 2) for part in (dt, hidden_states))
    keys, queries = (
        part.float().transpose(1, 2)[:, :, None].expand(batch, length, channels, A.shape[-1]) for part in (B, C)
    )
    decay = (rates[..., None] * A.float()).flatten(2)
    output, state = recur(states, "gated", queries, keys, (inputs * rates)[..., None], decay, scale=1.0)
    scanned = output.squeeze(3).transpose(1, 2)
    if D is not None:
        scanned = scanned + hidden_states * D[None, :, None]
    if z is not None:
        scanned = scanned * functional.silu(z)
    return (scanned, state) if return_last_state else scanned


def lightning_attention(
    states: StepStates, layer: Any, hidden_states: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The forward of MiniMax's linear layer, which has no function in between: each head fades at a fixed rate."""
    batch, length, _size = hidden_states.shape
    heads = layer.num_attention_heads
    mixed = layer.act_fn(layer.qkv_proj(hidden_states)).reshape(batch, length, heads, 3 * layer.head_dim)
    query, key, value = mixed.split(layer.head_dim, dim=3)
    decay = -layer.slope_rate.reshape(1, 1, heads).expand(batch, length, heads)
    output, state = recur(states, "gated", query, key, value, decay, scale=1.0)
    states.recurrence_wanted(layer.layer_idx)
    output = layer.norm(output.flatten(2).to(hidden_states.dtype))
    return layer.out_proj(torch.sigmoid(layer.output_gate(hidden_states)) * output), state


def _normalized(heads: torch.Tensor) -> torch.Tensor:
    """Heads of length one: x / sqrt(sum of squares + epsilon), which is a norm by the mean with other constants."""
    size = heads.shape[-1]
    attributes = {"axis": -1, "epsilon": _EPSILON / size}
    inputs = (heads, torch.full((size,), size**-0.5))
    return torch.onnx.ops.symbolic(
        "RMSNormalization", inputs, attributes, dtype=heads.dtype, shape=heads.shape, version=OPSET
    )


def _repeated(heads: torch.Tensor, count: int) -> torch.Tensor:
    """(B, S, H, D) with each head as often as it is shared."""
    return heads if heads.shape[2] == count else heads.repeat_interleave(count // heads.shape[2], dim=2)
