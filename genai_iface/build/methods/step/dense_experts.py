# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Experts that a network runs in a Python loop over those that some token has chosen, all at once while it is traced.

A graph cannot leave an expert out, so each token goes through every one, and the others count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

__all__ = ["dense_experts"]


@contextmanager
def dense_experts(network: Any) -> Iterator[None]:
    """Lets a network run its experts without a loop; afterwards it has its own way again."""
    changed = [part for part in network.modules() if type(part).__name__ in _FORWARDS]
    for part in changed:
        part.forward = partial(_FORWARDS[type(part).__name__], part)
    try:
        yield
    finally:
        for part in changed:
            del part.forward


def _dbrx(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Gated experts whose matrices lie one upon another: tokens (B, S, H), indices and weights (B * S, K)."""
    tokens, mlp = hidden_states.flatten(0, 1), experts.mlp
    gate, up, down = (
        matrix.view(experts.num_experts, experts.ffn_hidden_size, experts.hidden_size)
        for matrix in (mlp.w1, mlp.v1, mlp.w2)
    )
    inner = mlp.activation_fn(tokens @ gate.transpose(1, 2)) * (tokens @ up.transpose(1, 2))
    shares = _shares(tokens, top_k_index, top_k_weights, experts.num_experts)
    return _mixed(inner @ down, shares).view(hidden_states.shape)


def _longcat(
    experts: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """Gated experts, and after them some that give back what they get: tokens (T, H), indices and weights (T, K)."""
    shares = _shares(hidden_states, top_k_index, top_k_weights, experts.total_experts)
    routed = experts.num_routed_experts
    unchanged = hidden_states * shares[:, routed:].sum(dim=1, keepdim=True)
    if not routed:
        return unchanged
    gate, up = (hidden_states @ experts.gate_up_proj[:routed].transpose(1, 2)).chunk(2, dim=-1)
    inner = experts.act_fn(gate) * up
    return _mixed(inner @ experts.down_proj.transpose(1, 2), shares[:, :routed]) + unchanged


def _shares(tokens: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor, count: int) -> torch.Tensor:
    """The weight of each expert for each token, (T, E)."""
    none = torch.zeros(tokens.shape[0], count, dtype=weights.dtype)
    return none.scatter(1, indices, weights).to(tokens.dtype)


def _mixed(outputs: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """What all experts gave, (E, T, H), as their weighted sum (T, H)."""
    return (outputs * shares.T[..., None]).sum(dim=0)


_FORWARDS: Mapping[str, Callable[..., torch.Tensor]] = MappingProxyType(
    {"DbrxExperts": _dbrx, "LongcatFlashExperts": _longcat}
)
