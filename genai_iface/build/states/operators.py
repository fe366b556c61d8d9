# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""CausalConvWithState and LinearAttention in a traced network, with padding that leaves their states alone.

Outside of an export the outputs are meaningless; shapes and types are right.
"""

from __future__ import annotations

from typing import Any

import torch

from genai_iface.build.methods.standard_cache import OPSET
from genai_iface.build.states.step_states import StepStates

__all__ = ["STATE_OPSET", "convolve", "recur"]

STATE_OPSET = 27
"""The first operator set with both. torch traces no newer ones than 24, so the graph is declared afterwards."""

_IN_OPERATOR = ("silu", "swish")


def convolve(
    states: StepStates, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str | None
) -> torch.Tensor:
    """A causal convolution of each channel over the state and the inputs.

    Args:
        states: Of the step.
        inputs: (B, C, S), the tensor that the network's cache was given.
        weight: (C, K).
        bias: (C,) or None.
        activation: What follows, by its name in Transformers.

    Returns:
        (B, C, S) in the type of ``inputs``; computed, and the state kept, in that of the weight.
    """
    from transformers.activations import ACT2FN

    batch, channels = inputs.shape[:2]
    kept = weight.shape[-1] - 1
    dtype = weight.dtype
    past = states.take_convolution(inputs, (batch, channels, kept), dtype)
    fresh = inputs.to(dtype)
    inside = activation if activation in _IN_OPERATOR else "none"
    output, present = _with_state(
        "CausalConvWithState",
        (fresh, weight.unsqueeze(1), bias, past),
        {"activation": inside},
        (fresh.shape, past.shape),
        (dtype, dtype),
    )
    if states.counts is not None:
        # The operator's own second output ends with the padding.
        at = states.counts[:, None, None] + torch.arange(kept)[None, None]
        present = torch.gather(torch.cat([past, fresh], dim=2), 2, at.expand(batch, channels, kept))
    states.give(present)
    if activation is not None and inside == "none":
        output = ACT2FN[activation](output)
    return output.to(inputs.dtype)


def recur(
    states: StepStates,
    rule: str,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor,
    beta: torch.Tensor | None = None,
    *,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear attention with decay, in float32.

    Args:
        states: Of the step.
        rule: "gated" or "gated_delta".
        query: (B, S, H, Dk).
        key: (B, S, H, Dk).
        value: (B, S, H, Dv).
        decay: (B, S, H), or (B, S, H * Dk) where each key channel has its own.
        beta: (B, S, H), the rate of a delta rule.
        scale: Factor of the output.

    Returns:
        (B, S, H, Dv), and the new state (B, H, Dk, Dv).
    """
    batch, length, heads, key_size = key.shape
    value_size = value.shape[3]
    past = states.take_recurrence((batch, heads, key_size, value_size))
    keys, values = (states.hide_padding(part.float().flatten(2)) for part in (key, value))
    hidden = [None if part is None else states.hide_padding(part.float()) for part in (decay, beta)]
    output, present = _with_state(
        "LinearAttention",
        (query.float().flatten(2), keys, values, past, *hidden),
        {"update_rule": rule, "q_num_heads": heads, "kv_num_heads": heads, "scale": float(scale)},
        ((batch, length, heads * value_size), past.shape),
        (torch.float32, torch.float32),
    )
    states.give(present)
    return output.unflatten(2, (heads, value_size)), present


def _with_state(
    kind: str, inputs: tuple[torch.Tensor | None, ...], attributes: dict[str, Any], shapes: Any, dtypes: Any
) -> Any:
    return torch.onnx.ops.symbolic_multi_out(kind, inputs, attributes, dtypes=dtypes, shapes=shapes, version=OPSET)
