# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random checkpoints of Transformers decoder families: what the reports and the tests of model building run on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genai_iface.build._family import HEAD, VOCAB_SIZE, Family, family, rope
from genai_iface.build._state_families import STATE_FAMILIES
from genai_iface.errors import InvalidInputError

__all__ = ["FAMILIES", "STATE_FAMILIES", "VOCAB_SIZE", "Family", "family_of", "make_checkpoint", "tiny_model"]

_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_WINDOW_THEN_FULL: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}

_LLAMA3 = rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
_YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32)
_LONGROPE = rope(
    "longrope",
    short_factor=[1.0 + 0.1 * i for i in range(8)],
    long_factor=[2.0 + 0.5 * i for i in range(8)],
    factor=4.0,
    original_max_position_embeddings=32,
)

_ALL = (
    family("llama"),
    family("llama-llama3", "rope scaled as in Llama 3", model_type="llama", rope_parameters=_LLAMA3),
    family("llama-yarn", "yarn: scaled cos and sin", model_type="llama", rope_parameters=_YARN),
    family("qwen2", "biases on q, k, v"),
    family("qwen2_moe", "experts with a shared one", **_EXPERTS, num_experts=4, shared_expert_intermediate_size=32),
    family("qwen3", "norms on q and k", **HEAD),
    family("qwen3_moe", "norms on q and k", "experts", **_EXPERTS, **HEAD, num_experts=4),
    family("mistral", "sliding window", sliding_window=8, **HEAD),
    family("mixtral", "experts", num_local_experts=4, num_experts_per_tok=2, sliding_window=None, **HEAD),
    family("gemma", "norm weight plus one", "GeGLU", **HEAD),
    family("gemma2", "soft caps", "four norms a layer", "window in every other layer", **_WINDOW_THEN_FULL, **HEAD),
    family(
        "gemma3",
        "two rotary bases",
        "norms on q and k",
        "window",
        model_type="gemma3_text",
        **_WINDOW_THEN_FULL,
        **HEAD,
    ),
    family(
        "gemma4",
        "norm without weight on v",
        "partial rotary in full layers",
        "inputs per layer",
        model_type="gemma4_text",
        **_WINDOW_THEN_FULL,
        **HEAD,
        global_head_dim=32,
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=16,
    ),
    family("phi", "partial rotary", "LayerNorm", rope_parameters=rope("default", partial_rotary_factor=0.5)),
    family("phi3", "packed q, k, v and gate, up"),
    family(
        "phi3-longrope",
        "longrope: scaled cos and sin, two sets of frequencies",
        model_type="phi3",
        rope_parameters=_LONGROPE,
        original_max_position_embeddings=32,
    ),
    family("phimoe", "experts", "LayerNorm", num_local_experts=4, num_experts_per_tok=2),
    family(
        "gpt2", "learned positions", sizes=False, vocab_size=VOCAB_SIZE, n_positions=128, n_embd=64, n_layer=2, n_head=4
    ),
    family(
        "gpt_neox",
        "partial rotary",
        "packed q, k, v",
        "LayerNorm",
        rope_parameters=rope("default", partial_rotary_factor=0.5),
    ),
    family(
        "gptj",
        "interleaved partial rotary",
        sizes=False,
        vocab_size=VOCAB_SIZE,
        n_positions=128,
        n_embd=64,
        n_layer=2,
        n_head=4,
        rotary_dim=8,
    ),
    family("olmo", "LayerNorm without weight"),
    family("olmo2", "norm after attention and MLP", "norms on all of q and k"),
    family("olmo3", "as OLMo 2", "window", **_WINDOW_THEN_FULL),
    family("smollm3", "layers without rotary", no_rope_layers=[1, 0]),
    family("granite", "multipliers", attention_multiplier=0.3, residual_multiplier=0.7, logits_scaling=2.0),
    family("granitemoe", "experts", "multipliers", num_local_experts=4, num_experts_per_tok=2),
    family("starcoder2", "LayerNorm", "biases", use_bias=True, sliding_window=None),
    family("stablelm", "partial rotary", "LayerNorm", rope_parameters=rope("default", partial_rotary_factor=0.5)),
    family("cohere", "interleaved rotary", "LayerNorm without bias", "attention beside the MLP", logit_scale=0.5),
    family(
        "cohere2",
        "interleaved rotary in window layers only",
        "LayerNorm without bias",
        logit_scale=0.5,
        **_WINDOW_THEN_FULL,
        **HEAD,
    ),
    family(
        "glm",
        "interleaved partial rotary",
        "biases on q, k, v",
        rope_parameters=rope("default", partial_rotary_factor=0.5),
        **HEAD,
    ),
    family(
        "glm4",
        "interleaved partial rotary",
        "four norms a layer",
        rope_parameters=rope("default", partial_rotary_factor=0.5),
        **HEAD,
    ),
    family(
        "deepseek_v3",
        "latent attention: key and value sizes differ",
        "experts",
        moe_intermediate_size=32,
        num_key_value_heads=4,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        kv_lora_rank=16,
        q_lora_rank=32,
        qk_rope_head_dim=16,
        qk_nope_head_dim=16,
        v_head_dim=16,
        first_k_dense_replace=1,
    ),
    family("exaone4", "norms on q and k, and after each part", "window with rotary, full without", **_WINDOW_THEN_FULL),
    family("falcon", "one key head", "LayerNorm", "attention beside the MLP", num_kv_heads=1, bias=False),
    family("falcon-alibi", "ALiBi", "LayerNorm", model_type="falcon", alibi=True, new_decoder_architecture=False),
    family("opt", "learned positions", "LayerNorm", ffn_dim=96, word_embed_proj_dim=64),
    family(
        "nemotron", "partial rotary", "LayerNorm plus one", rope_parameters=rope("default", partial_rotary_factor=0.5)
    ),
    family("helium", "interleaved rotary", "epsilon 1e-8", **HEAD),
    family("ernie4_5", "interleaved rotary", **HEAD),
    family("seed_oss", "biases on q, k, v", **HEAD),
    STATE_FAMILIES["lfm2"],  # for the report on fusions
    family("hunyuan", "norms on q and k after the rotation", model_type="hunyuan_v1_dense", **HEAD),
    family("arcee", "squared ReLU", **HEAD),
    family("apertus", "xIELU", "norms on q and k"),
    family(
        "ministral3",
        "yarn",
        "queries scaled by position",
        rope_parameters={**_YARN, "llama_4_scaling_beta": 0.1},
        **HEAD,
    ),
    family(
        "bloom",
        "ALiBi",
        sizes=False,
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        n_layer=2,
        n_head=4,
    ),
    family(
        "mpt",
        "ALiBi",
        sizes=False,
        vocab_size=VOCAB_SIZE,
        d_model=64,
        n_layers=2,
        n_heads=4,
        max_seq_len=128,
    ),
    family(
        "gpt_oss",
        "attention sinks",
        "experts",
        "yarn",
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters=_YARN,
        **_WINDOW_THEN_FULL,
        **HEAD,
    ),
)

FAMILIES: Mapping[str, Family] = {each.name: each for each in _ALL}
"""Those that keep keys and values, with one of ``STATE_FAMILIES``, where the others are."""


def family_of(name: str) -> Family:
    """The family of this name.

    Raises:
        InvalidInputError: There is none.
    """
    known = {**FAMILIES, **STATE_FAMILIES}
    if name not in known:
        raise InvalidInputError(f"there is no family {name!r}", remedy=f"choose from {', '.join(known)}")
    return known[name]


def tiny_model(family: str | Family, *, dtype: str = "float32", seed: int = 0, **options: Any) -> Any:
    """A seeded random torch model, weights wide enough that greedy choices are clear.

    Args:
        family: A family, or its name.
        dtype: "float32", "float16" or "bfloat16".
        seed: Of the weights; the weights of all dtypes are roundings of the same.
        options: What goes to Transformers' from_config, such as attn_implementation="eager".

    Raises:
        InvalidInputError: There is no such family, or no such dtype.
    """
    import torch
    import transformers

    chosen = family_of(family) if isinstance(family, str) else family
    if dtype not in ("float32", "float16", "bfloat16"):
        raise InvalidInputError(f"dtype is {dtype!r}", remedy="use float32, float16 or bfloat16")
    config = transformers.AutoConfig.for_model(chosen.model_type, **chosen.settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options).eval()
        for parameter in model.parameters():
            # The usual start of training gives nearly equal logits, and norms and biases that do nothing.
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.08)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.1))
    if dtype == "float32":
        return model
    # As from_pretrained does it: what the model computes for itself, such as rotary frequencies, stays in float32.
    narrow = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), **options).eval()
    narrow.load_state_dict(model.state_dict())
    return narrow


def make_checkpoint(family: str | Family, path: Path, *, dtype: str = "float32", seed: int = 0) -> Any:
    """Saves a seeded random checkpoint (config.json, model.safetensors) and returns the torch model.

    Args:
        family: A family, or its name.
        path: The folder; it is made.
        dtype: The torch dtype of the weights, as for :func:`tiny_model`.
        seed: The seed of the weights, as for :func:`tiny_model`.

    Raises:
        InvalidInputError: There is no such family, or no such dtype.
    """
    model = tiny_model(family, dtype=dtype, seed=seed)
    model.save_pretrained(path)
    return model
