# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random decoders of as many architectures as Transformers has: our families, then the rest of its own list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from genai_iface.build._families import FAMILIES, Family, tiny_model
from genai_iface.errors import UnsupportedModelError

__all__ = ["MOST_WEIGHTS", "architectures", "network_of"]

MOST_WEIGHTS = 4_000_000

# What configurations call their sizes, and the size that a tiny network has. A class gets those that it knows.
_SIZES: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embed_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "feed_forward_size"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "num_experts_per_token", "top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "head_dim"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("bos_token_id", "n_shared_experts", "num_dense_layers", "mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("eos_token_id", "mamba_expand", "expand"), 2),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state", "state_size", "ssm_state_size"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_num_value_heads"), 16),
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    "rotary_dim": 8,
    "pad_token_id": 0,
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "index_topk": 16,
    "index_n_heads": 4,
    "index_head_dim": 32,
    "vocab_size": 131,
}
_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers")


def architectures() -> dict[str, Family]:
    """Our families, one for each model type first; then every other decoder that Transformers lists."""
    found = dict(FAMILIES)
    known = {family.model_type for family in FAMILIES.values()}
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if name not in known and name not in found:
            found[name] = Family(name, name)
    return found


def network_of(name: str) -> Any:
    """A tiny seeded network in evaluation mode.

    Raises:
        UnsupportedModelError: Its configuration cannot be made tiny by the names of its sizes, or it is no decoder.
    """
    family = architectures()[name]
    if name not in FAMILIES:
        family = Family(name, family.model_type, _settings(family.model_type))
    config = AutoConfig.for_model(family.model_type, **family.settings)
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is a half of an encoder with a decoder", remedy="Take a decoder.")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    weights = sum(parameter.numel() for parameter in empty.parameters())
    if weights > MOST_WEIGHTS:
        raise UnsupportedModelError(f"{name} has {weights} weights in its smallest form", remedy="Name its sizes.")
    return tiny_model(family)


def _settings(model_type: str) -> dict[str, Any]:
    """The sizes that a configuration class knows by one of the usual names."""
    plain = AutoConfig.for_model(model_type)
    if plain.get_text_config() is not plain:
        raise UnsupportedModelError(f"{model_type} is made of several networks", remedy="Take its text model.")
    given: dict[str, Any] = {name: size for name, size in _SIZES.items() if getattr(plain, name, None) is not None}
    given |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if hasattr(plain, "is_decoder"):
        given["is_decoder"] = True
    layers = 2
    for name in _LISTS:
        kinds = getattr(plain, name, None)
        if isinstance(kinds, Sequence) and kinds and not isinstance(kinds, str):
            different = list(dict.fromkeys(kinds))
            layers = max(layers, len(different))
            given[name] = different
    for name in _LISTS:
        if name in given:
            given[name] = (given[name] * layers)[:layers]
    given |= {name: layers for name in ("num_hidden_layers", "n_layer") if name in given}
    if "kv_lora_rank" in given:  # latent attention has a key head for each query head
        given["num_key_value_heads"] = 4
    return {name: value for name, value in given.items() if not _is_computed(plain, name)}


def _is_computed(config: Any, name: str) -> bool:
    """Whether a configuration works a field out of others and takes no value for it."""
    found = getattr(type(config), name, None)
    return isinstance(found, property) and found.fset is None
