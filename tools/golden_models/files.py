# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a golden folder besides the graph: configuration, tokenizer, checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from genai_iface.conformance.decoder.plan import Plan
from genai_iface.conformance.decoder.reference import EPSILON
from genai_iface.conformance.decoder.weights import EOS

__all__ = ["write_checkpoint", "write_config", "write_tokenizer"]

_SPECIAL = ("<|bos|>", "<|eos|>", "<|pad|>", "<|start|>", "<|end|>")
_BOS = 256

_TEMPLATE = """\
{%- for message in messages -%}
<|start|>{{ message['role'] }}
{{ message['content'] }}<|end|>
{% endfor -%}
{%- if add_generation_prompt %}<|start|>assistant
{% endif -%}
"""


def write_config(path: Path, plan: Plan, dtype: str) -> None:
    """Writes config.json and generation_config.json."""
    config: dict[str, Any] = {
        "architectures": [{"phi3": "Phi3ForCausalLM"}.get(plan.checkpoint, "LlamaForCausalLM")],
        "model_type": plan.checkpoint or "llama",
        "hidden_size": plan.hidden,
        "intermediate_size": plan.intermediate,
        "num_hidden_layers": plan.layers,
        "num_attention_heads": plan.num_heads,
        "num_key_value_heads": plan.num_kv_heads,
        "head_dim": plan.head_dim,
        "max_position_embeddings": plan.context_length,
        "rms_norm_eps": EPSILON,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "vocab_size": plan.vocab_size,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "dtype": dtype,
        "pad_token_id": None,
        "bos_token_id": _BOS if plan.is_text else None,
        "eos_token_id": EOS if plan.is_text else None,
    }
    if plan.checkpoint == "phi3":
        # Its default is an id beyond this vocabulary.
        config["pad_token_id"] = 0
        config["original_max_position_embeddings"] = plan.context_length
    if plan.rotary_dim is not None:
        config["rope_parameters"]["partial_rotary_factor"] = plan.rotary_dim / plan.head_dim
    _write(path / "config.json", {name: value for name, value in config.items() if value is not None})
    if plan.is_text:
        _write(path / "generation_config.json", {"bos_token_id": _BOS, "eos_token_id": EOS})


def write_tokenizer(path: Path) -> None:
    """Writes a tokenizer whose ids 0 to 255 are the bytes, and a chat template."""
    # The byte-level alphabet: printable bytes stand for themselves, the others for U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE({letters[byte]: byte for byte in range(256)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in _SPECIAL])
    tokenizer.save(str(path / "tokenizer.json"), pretty=False)
    _write(path / "tokenizer_config.json", {"bos_token": _SPECIAL[0], "eos_token": _SPECIAL[1]})
    (path / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")


def write_checkpoint(path: Path, plan: Plan, weights: Mapping[str, NDArray[np.float64]]) -> None:
    """Writes model.safetensors in the names of Transformers; bfloat16 holds every weight exactly."""
    tensors: dict[str, NDArray[Any]] = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["norm"],
        "lm_head.weight": weights["head"].T,
    }
    for layer in range(plan.layers):
        names = ("q", "k", "v", "o", "gate", "up", "down")
        q, k, v, o, gate, up, down = (weights[f"{layer}.{name}"].T for name in names)
        named = {
            "input_layernorm": weights[f"{layer}.norm1"],
            "post_attention_layernorm": weights[f"{layer}.norm2"],
            "self_attn.o_proj": o,
            "mlp.down_proj": down,
        }
        if plan.checkpoint == "phi3":
            named |= {"self_attn.qkv_proj": np.concatenate((q, k, v)), "mlp.gate_up_proj": np.concatenate((gate, up))}
        else:
            named |= {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v}
            named |= {"mlp.gate_proj": gate, "mlp.up_proj": up}
        tensors |= {f"model.layers.{layer}.{name}.weight": array for name, array in named.items()}
    exact = {name: np.ascontiguousarray(array.astype(ml_dtypes.bfloat16)) for name, array in tensors.items()}
    safetensors.numpy.save_file(exact, path / "model.safetensors", metadata={"format": "pt"})


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
