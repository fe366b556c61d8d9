# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes by hand, where the names of a configuration class do not give a tiny network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BY_HAND"]

# Two layers that keep keys and values, two that read them again.
_SHARED: Mapping[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
_EXPERTS: Mapping[str, Any] = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}
_HALF: Mapping[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
_LAYERS: Mapping[str, Any] = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
_GEMMA3N: Mapping[str, Any] = {
    **_SHARED,
    "intermediate_size": [96] * 4,
    "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.0],
    "laurel_rank": 8,
    "head_dim": 16,
}
_PER_LAYER: Mapping[str, Any] = {"per_layer_config": {"01": {"head_dim": 32}}}
_HASHED: Mapping[str, Any] = {
    "ple_embed_dim": 64,
    "hc_lowrank": 16,
    "ngram_vocab_size_base": 97,
    "split_ngram_parts": 4,
    "make_ngram_vocab_size_divisible_by": 4,
    "head_dim": 16,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}

_BYTES: Mapping[str, Any] = {
    "hidden_size": 64,
    "hidden_size_global": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "head_dim": 16,
}

BY_HAND: Mapping[str, Mapping[str, Any]] = {
    "blt": {
        **{part: dict(_BYTES) for part in ("patcher_config", "encoder_config", "decoder_config")},
        # As wide as the heads that read the bytes of a patch are together.
        "global_config": {**_BYTES, "hidden_size": 128, "head_dim": 32},
        "encoder_hash_byte_group_vocab": 64,
        "encoder_hash_byte_group_size": [3, 4],
    },
    "cohere_compass_text": {"rope_parameters": {name: dict(_HALF) for name in ("sliding_attention", "full_attention")}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4, "topk_method": "greedy", "n_shared_experts": 1},
    "deepseek_v4": {
        "o_lora_rank": 16,
        "o_groups": 2,
        "head_dim": 32,
        "qk_rope_head_dim": 8,
        "layer_types": ["sliding_attention"] * 2,
        "num_hidden_layers": 2,
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "num_key_value_heads": 1,
    },
    # A layer before the loop, two in it, one behind it, and layers of both kinds.
    "dory": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "n_input_layers": 1,
        "n_recurrent_layers": 2,
        "n_output_layers": 1,
    },
    "dots1": _EXPERTS,
    "dots3_note": {part: {"adapter_out_dim": 64} for part in ("vision_config", "audio_config")},
    "dots3_note_text": {
        "num_hidden_layers": 2,
        "layer_types": ["indexed_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads"), 4),
        **dict.fromkeys(("swa_q_lora_rank", "swa_kv_lora_rank", "swa_head_dim"), 32),
        **dict.fromkeys(("swa_qk_nope_head_dim", "swa_v_head_dim"), 16),
        "shared_experts_intermediate_size": 32,
    },
    "gemma3n_text": _GEMMA3N,
    "gemma4_assistant": {
        "text_config": {
            **_LAYERS,
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_kv_shared_layers": 2,
        },
        "backbone_hidden_size": 64,
    },
    "gemma4_unified_text": {**_LAYERS, **_PER_LAYER, "num_key_value_heads": 2, "use_bidirectional_attention": None},
    # The text part has a head of its own only if both configurations say so.
    "got_ocr2": {"text_config": {"tie_word_embeddings": True}},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "inkling2_text": {
        "d_rel": 4,
        "rel_extent": 16,
        "sliding_window_size": 8,
        "log_scaling_n_floor": 8,
        "unpadded_vocab_size": 131,
    },
    "inkling2_loop_text": {
        "d_rel": 4,
        "rel_extent": 16,
        "sliding_window_size": 8,
        "log_scaling_n_floor": 8,
        "unpadded_vocab_size": 131,
    },
    # Both kinds of layers, as its checkpoints have; the index has as many heads as the keys, and takes few blocks.
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "index_n_heads": 2,
        "index_topk_blocks": 2,
    },
    "ministral": {"head_dim": 16},
    # As in the checkpoints, the window is as long as a sequence may be: its mask knows of none, its cache does.
    "moshi": {"sliding_window": 128},
    "moss_transcribe_diarize": {"text_config": {"tie_word_embeddings": True}},
    "musicgen": {"decoder": {"num_codebooks": 1}},
    "qwen4_exp_text": _HASHED,
    "recurrent_gemma": {
        "lru_width": 64,
        "attention_window_size": 8,
        "num_hidden_layers": 3,
        "head_dim": 16,
    },
    "reformer": {
        "attention_head_size": 16,
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [24, 40],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 4,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 16,
        "shape_vocab_size": 16,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    # Sizes of queries and keys are rounded up to 64.
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "xlnet": {"d_head": 16, "mem_len": None, "attn_type": "uni"},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "num_key_value_heads": 4,
        "n_mamba_heads": 2,
        "mamba_dt_rank": 8,
        "use_mamba_kernels": False,
    },
}
