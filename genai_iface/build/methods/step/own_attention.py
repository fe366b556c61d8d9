# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that compute attention in their own layers, with the attention of the step in its place.

What they compute is the standard operator's: causal (XGLM, GPT-NeoX Japanese, the first GPT, which keeps nothing by
itself), with a window (the local layers of GPT-Neo), or with a bias that grows with the distance (Bloom, Falcon, MPT),
which is a mask of floats.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch

__all__ = ["own_attention"]

_FALCONS = "build_alibi_tensor"


@contextmanager
def own_attention(step: Any, network: Any) -> Iterator[None]:
    """Lets the layers of a network call the attention of a step; afterwards they have their own again.

    Args:
        step: A ``StandardAttention``.
        network: The network.
    """
    changed: list[tuple[torch.nn.Module, str]] = []
    for part in network.modules():
        for name, replacement in _REPLACEMENTS.get(_key(part), {}).items():
            setattr(part, name, partial(replacement, step, part, getattr(part, name)))
            changed.append((part, name))
    # MPT converts its mask, though its layers take none here.
    step.always_masks = any(type(part).__name__ == "MptAttention" for part in network.modules())
    bias = vars(sys.modules[type(network).__module__]).get(_FALCONS)
    if bias is not None:
        vars(sys.modules[type(network).__module__])[_FALCONS] = partial(_alibi_of_buffers, step, bias)
    try:
        yield
    finally:
        if bias is not None:
            vars(sys.modules[type(network).__module__])[_FALCONS] = bias
        for part, name in changed:
            delattr(part, name)


def _key(part: torch.nn.Module) -> str:
    """The name of a layer's class; of one that many networks have, with its file's."""
    kind = type(part)
    return kind.__name__ if kind.__name__ != "Attention" else f"{kind.__module__.rpartition('.')[2]}.Attention"


def _bloom(
    step: Any,
    layer: Any,
    _: Any,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    alibi: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    layer_past: Any = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Keys are favored by their position times the slope of the head."""
    query, key, value = layer._reshape(layer.query_key_value(hidden_states))
    key, value = layer_past.update(key, value, layer.layer_idx)
    slopes = sys.modules[type(layer).__module__]._get_alibi_slopes(layer.num_heads, hidden_states.device)
    mask = step.bias(slopes, query.dtype)
    output, _weights = step.attend(layer, query, key, value, mask, scaling=layer.inv_norm_factor)
    return layer.dense(output.flatten(2)) + residual, None


def _falcon(
    step: Any,
    layer: Any,
    own: Callable[..., Any],
    hidden_states: torch.Tensor,
    alibi: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    *rest: Any,
    layer_past: Any = None,
    **named: Any,
) -> Any:
    """With ALiBi, which the network has put into its mask; without it, converting knows the network."""
    if alibi is None:
        return own(hidden_states, alibi, attention_mask, *rest, layer_past=layer_past, **named)
    query, key, value = (part.transpose(1, 2) for part in layer._split_heads(layer.query_key_value(hidden_states)))
    key, value = layer_past.update(key, value, layer.layer_idx)
    output, _weights = step.attend(layer, query, key, value, attention_mask, scaling=layer.head_dim**-0.5)
    return layer.dense(output.flatten(2)), None


def _alibi_of_buffers(step: Any, own: Callable[..., torch.Tensor], mask: torch.Tensor, *rest: Any, **named: Any) -> Any:
    """Falcon's bias, for as many keys as the buffers have."""
    return own(torch.ones(mask.shape[0], step.capacity, dtype=mask.dtype), *rest, **named)


def _mpt(
    step: Any,
    layer: Any,
    _: Any,
    hidden_states: torch.Tensor,
    position_bias: torch.Tensor | None,
    cache: Any = None,
    attention_mask: torch.Tensor | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """As Bloom; its bias (H, 1, L) is 0 for the last of L positions."""
    mixed = layer.Wqkv(hidden_states)
    if layer.clip_qkv:
        mixed = mixed.clamp(min=-layer.clip_qkv, max=layer.clip_qkv)
    query, key, value = (
        part.unflatten(2, (layer.n_heads, layer.head_dim)).transpose(1, 2) for part in mixed.chunk(3, dim=2)
    )
    key, value = cache.update(key, value, layer.layer_idx)
    mask = None if position_bias is None else step.bias(-position_bias[:, 0, -2], query.dtype)
    output, _weights = step.attend(layer, query, key, value, mask, scaling=layer.softmax_scale)
    return layer.out_proj(output.flatten(2)), None


def _gpt_neo(
    step: Any, layer: Any, _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any
) -> tuple[torch.Tensor, None]:
    """Scores are not scaled; local layers have a window."""
    mask = step.window(layer.config.window_size) if layer.attention_type == "local" else None
    output, _weights = step.attend(layer, query, key, value, mask, scaling=1.0)
    return output.transpose(1, 2), None


def _gpt_neox_japanese(
    step: Any,
    layer: Any,
    _: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, None]:
    output, _weights = step.attend(layer, query, key, value, attention_mask, scaling=1 / layer.norm_factor)
    return output.transpose(1, 2), None


def _openai(
    step: Any, layer: Any, _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any
) -> list[torch.Tensor]:
    """The first GPT, which has no cache: keys come as columns."""
    scaling = value.shape[-1] ** -0.5 if layer.scale else 1.0
    output, _weights = step.attend(layer, query, key.transpose(2, 3), value, scaling=scaling)
    return [output.transpose(1, 2)]


def _xglm(
    step: Any,
    layer: Any,
    own: Callable[..., Any],
    hidden_states: torch.Tensor,
    key_value_states: torch.Tensor | None = None,
    cache: Any = None,
    attention_mask: torch.Tensor | None = None,
    **rest: Any,
) -> Any:
    """Attention to what an encoder gave stays as it is."""
    if key_value_states is not None:
        return own(hidden_states, key_value_states, cache, attention_mask, **rest)
    query, key, value = (
        projection(hidden_states).unflatten(2, (layer.num_heads, layer.head_dim)).transpose(1, 2)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    key, value = cache.update(key, value, layer.layer_idx)
    output, _weights = step.attend(layer, query, key, value, attention_mask, scaling=layer.scaling)
    return layer.out_proj(output.flatten(2)), None


_REPLACEMENTS: Mapping[str, Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "BloomAttention": {"forward": _bloom},
        "FalconAttention": {"forward": _falcon},
        "MptAttention": {"forward": _mpt},
        "GPTNeoSelfAttention": {"_attn": _gpt_neo},
        "GPTNeoXJapaneseAttention": {"_attn": _gpt_neox_japanese},
        "modeling_openai.Attention": {"_attn": _openai},
        "XGLMAttention": {"forward": _xglm},
    }
)
