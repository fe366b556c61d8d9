# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A tiny configuration for any model type, from the names that configuration classes give to their sizes.

Lengths that change what a network computes (windows, chunks, floors of a scaling, indices of a sparse attention) are
made so short that the prompts of a verification pass them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from genai_iface.build._families import FAMILIES, STATE_FAMILIES, Family
from tools.sweep_decoders.settings import BY_HAND

__all__ = ["cases", "tiny_settings"]

_SIZES: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "hidden_size",
            "adapter_in_dim",
            "adapter_input_size",
            "d_model",
            "n_embd",
            "dim",
            "embedding_size",
            "embed_dim",
            "dim_model",
        ),
        64,
    ),
    **dict.fromkeys(("emb_dim", "embedding_dim", "hidden_dim", "word_embed_proj_dim", "encoder_hidden_size"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "feed_forward_size"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "d_inner", "dim_ff", "dff", "shared_intermediate_size"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "depth"), 2),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 128),
    **dict.fromkeys(("max_target_positions", "max_source_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "num_experts_per_token", "top_k_experts", "moe_top_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "intermediate_size_mlp"), 32),
    **dict.fromkeys(("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "head_dim", "d_kv"), 16),
    **dict.fromkeys(("swa_head_dim", "swa_v_head_dim", "kv_channels", "attention_head_dim", "global_head_dim"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("num_dense_layers", "mamba_n_groups", "n_groups", "num_shared_experts"), 1),
    **dict.fromkeys(("mamba_expand", "expand", "moe_topk", "zero_expert_num"), 2),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_d_state", "state_size", "ssm_state_size"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(
        ("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "num_global_key_value_heads"), 2
    ),
    "swa_num_attention_heads": 4,
    "q_lora_rank": 32,
    "rotary_dim": 8,
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size", "local_attention", "floor_scale"), 8),
    **dict.fromkeys(("index_topk", "index_block_size"), 8),
    # Where all heads of an indexer see nothing, scores are equal, and which is chosen is nobody's promise.
    **dict.fromkeys(("index_n_heads", "indexer_n_heads"), 16),
    **dict.fromkeys(("index_head_dim", "indexer_head_dim"), 32),
    "hidden_size_per_layer_input": 16,
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size", "text_vocab_size"), 131),
    "initializer_range": 0.02,
}
_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types", "no_rope_layers", "attention_layers", "indexer_types")
_DROPOUTS = ("drop", "layerdrop")
_TOKENS: Mapping[str, int] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_MOST_LAYERS = 6


def cases() -> dict[str, Family]:
    """Every model type of the mapping by its name, with our own settings where we have some; then our variants."""
    every = {**FAMILIES, **STATE_FAMILIES}
    ours: dict[str, Family] = {}
    for family in every.values():
        ours.setdefault(family.model_type, family)
    found = {name: ours.get(name) or Family(name, name) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    used = {id(family) for family in found.values()}
    return found | {name: family for name, family in every.items() if id(family) not in used}


def tiny_settings(family: Family) -> dict[str, Any]:
    """Arguments of the configuration class: the family's own, or made from the names of its sizes."""
    if family.settings:
        return dict(family.settings)
    return _settings(CONFIG_MAPPING[family.model_type], BY_HAND.get(family.model_type, {}))


def _settings(kind: Any, by_hand: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes for a configuration class and for those inside it."""
    try:
        plain = kind()
    except StrictDataclassError:  # defaults that the class itself refuses
        plain = kind(**by_hand)
    parts = {name: type(part) for name in kind.sub_configs or {} if (part := vars(plain).get(name)) is not None}
    given: dict[str, Any] = {name: _part(part, by_hand.get(name, {})) for name, part in parts.items()}
    if not parts or _has(plain, "vocab_size"):
        given |= _own(plain)
    return {**given, **{name: value for name, value in by_hand.items() if name not in parts}}


def _part(kind: Any, by_hand: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a configuration inside another one; what has them when it stands alone keeps them."""
    alone = next((each for each in FAMILIES.values() if each.model_type == kind.model_type), None)
    known = alone.settings if alone is not None else _settings(kind, BY_HAND.get(kind.model_type, {}))
    return {**known, **by_hand, "model_type": kind.model_type}


def _own(plain: Any) -> dict[str, Any]:
    own = {name: size for name, size in _SIZES.items() if _has(plain, name)}
    own |= {name: 0.0 for name, value in vars(plain).items() if _is_dropout(name, value)}
    own |= {name: token for name, token in _TOKENS.items() if name in vars(plain)}
    own |= {"is_decoder": True} if "is_decoder" in vars(plain) else {}
    own |= _layers(plain, own)
    own |= _rope(plain, own)
    if "kv_lora_rank" in own and "num_key_value_heads" in own:
        own["num_key_value_heads"] = 4  # latent attention has a key head for each query head
    return own


def _has(plain: Any, name: str) -> bool:
    """Whether a configuration keeps something under this name, and does not work it out of other fields."""
    return vars(plain).get(plain.attribute_map.get(name, name)) is not None


def _layers(plain: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """One layer of each kind that the class has by default, and the lists that name them at their new length."""
    kinds = {
        name: list(values)
        for name in _LISTS
        if isinstance(values := vars(plain).get(name), Sequence) and values and not isinstance(values, str)
    }
    kinds = {name: values for name, values in kinds.items() if isinstance(values[0], (str, int))}
    if not kinds:
        return {}
    total = max(len(values) for values in kinds.values())
    # Layers that bring a combination of kinds that none before has.
    seen: list[tuple[Any, ...]] = []
    rows = [tuple(values[at] if at < len(values) else None for values in kinds.values()) for at in range(total)]
    for row in rows:
        if row not in seen:
            seen.append(row)
    seen = seen[:_MOST_LAYERS]
    while len(seen) < 2:
        seen.append(seen[-1])
    lists = {name: [row[at] for row in seen] for at, name in enumerate(kinds)}
    counts = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    return {**lists, **{name: len(seen) for name in counts if name in own}}


def _rope(plain: Any, own: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters with their limits scaled down; factors that are lists have the length of the tiny head."""
    parameters = vars(plain).get("rope_parameters")
    if not isinstance(parameters, Mapping):
        return {}
    return {"rope_parameters": _scaled(parameters, own)}


def _scaled(parameters: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    scaled: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            scaled[name] = _scaled(value, own)
        elif name == "original_max_position_embeddings":
            scaled[name] = 16
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], float):
            size = own.get("head_dim", 16)
            scaled[name] = list(value[: math.ceil(size / 2)])
        else:
            scaled[name] = value
    return scaled


def _is_dropout(name: str, value: Any) -> bool:
    return isinstance(value, float) and value > 0 and any(word in name for word in _DROPOUTS)
