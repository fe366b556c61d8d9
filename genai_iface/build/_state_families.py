# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random decoders that keep states besides keys and values, or nothing but states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genai_iface.build._family import HEAD, VOCAB_SIZE, Family, family

__all__ = ["STATE_FAMILIES"]

_ALONE: dict[str, Any] = {"sizes": False, "vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2}
_CONV: dict[str, Any] = {**HEAD, "layer_types": ["conv", "full_attention"]}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SHARED: dict[str, Any] = {**_EXPERTS, "shared_expert_intermediate_size": 32}
_ROUTED: dict[str, Any] = {**_EXPERTS, "n_routed_experts": 4, "num_local_experts": 4, "n_group": 1, "topk_group": 1}
_LINEAR: dict[str, Any] = {**HEAD, "layer_types": ["linear_attention", "full_attention"]}
# Fewer heads of keys than of values, and no two sizes alike.
_DELTA: dict[str, Any] = {
    **_LINEAR,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_conv_kernel_dim": 4,
}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "linear_num_heads": 4,
}
_MAMBA2: dict[str, Any] = {
    **HEAD,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 2,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_OWN_STATE = "it keeps delayed values and the inputs of a convolution of its own, which no standard operator does"

_ALL = (
    family("lfm2", "convolutions between attention layers", **_CONV),
    family("lfm2_moe", "convolutions between attention layers", "experts", **_CONV, **_EXPERTS, num_dense_layers=1),
    family("lfm3", "convolutions of eight columns", **_CONV),
    family("qwen3_next", "gated delta rule", "experts", "gated attention", **_DELTA, **_SHARED),
    family("qwen3_5", "gated delta rule", "gated attention", model_type="qwen3_5_text", **_DELTA),
    family("qwen3_5_moe", "gated delta rule", "experts", model_type="qwen3_5_moe_text", **_DELTA, **_SHARED),
    family("olmo_hybrid", "gated delta rule", **_DELTA),
    family("lara_mini", "gated delta rule", "experts", **_DELTA, **_SHARED),
    family(
        "kimi_linear",
        "delta rule with a decay per key channel",
        "latent attention",
        "experts",
        **_LINEAR,
        **_LATENT,
        **_ROUTED,
        linear_head_dim=8,
        q_lora_rank=None,
        qk_rope_head_dim=16,
        mlp_layer_types=["dense", "sparse"],
    ),
    family(
        "bailing_hybrid",
        "delta rule with a decay per key channel",
        "latent attention",
        "experts",
        **_LINEAR,
        **_LATENT,
        **_ROUTED,
        linear_head_dim=16,
        q_lora_rank=32,
        qk_rope_head_dim=8,
    ),
    family(
        "granitemoehybrid",
        "Mamba-2",
        "experts",
        "multipliers",
        **_MAMBA2,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["mamba", "attention"],
        position_embedding_type="rope",
        shared_intermediate_size=96,
    ),
    family("bamba", "Mamba-2", **_MAMBA2, attn_layer_indices=[1]),
    family("falcon_h1", "Mamba-2 beside attention in each layer", "multipliers", **_MAMBA2, mamba_d_ssm=128),
    family(
        "nemotron_h",
        "Mamba-2",
        "attention without rotary",
        **HEAD,
        layers_block_type=["mamba", "attention"],
        mamba_num_heads=8,
        mamba_head_dim=16,
        ssm_state_size=8,
        n_groups=2,
        conv_kernel=4,
        chunk_size=16,
        expand=2,
    ),
    family(
        "zamba2",
        "Mamba-2",
        "attention shared by layers",
        **HEAD,
        mamba_d_state=8,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=16,
        layers_block_type=["mamba", "hybrid"],
        num_mem_blocks=1,
        chunk_size=16,
    ),
    family(
        "mamba2",
        "Mamba-2",
        "no attention",
        **_ALONE,
        num_heads=8,
        head_dim=16,
        state_size=8,
        n_groups=2,
        chunk_size=16,
        expand=2,
    ),
    family(
        "jamba",
        "Mamba-1",
        "experts",
        "attention without rotary",
        **_EXPERTS,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=8,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_dt_rank=4,
        use_mamba_kernels=False,
    ),
    family("mamba", "Mamba-1", "no attention", **_ALONE, state_size=8, time_step_rank=4),
    family("falcon_mamba", "Mamba-1", "no attention", **_ALONE, state_size=8, time_step_rank=4),
    family("minimax", "lightning attention: a fixed decay per head", "experts", **_LINEAR, **_ROUTED, block_size=16),
    family(
        "zaya",
        "a convolution over queries and keys",
        "values that are delayed by a token",
        "experts",
        inexpressible=_OWN_STATE,
        **HEAD,
        num_experts=4,
        num_experts_per_tok=1,
        moe_intermediate_size=32,
    ),
)

STATE_FAMILIES: Mapping[str, Family] = {each.name: each for each in _ALL}
"""Decoders with short convolutions, linear attention or state spaces."""
