# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""model.gguf, the file of llama.cpp, from a checkpoint; written with the package gguf."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._failure import NotApplicable
from genai_iface.errors import InvalidInputError

__all__ = ["write_gguf"]

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(folder: Path, target: Path, /) -> None:
    """Writes model.gguf in float32 for a folder of the form "checkpoint".

    Raises:
        InvalidInputError: The package gguf is not installed.
        NotApplicable: The file's architecture "llama" cannot hold this model.
    """
    try:
        # Only who takes this form needs it.
        import gguf  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            "Models of the form 'gguf' are written with the package gguf, which is not installed",
            remedy='Run: pip install "genai-iface[gguf]"',
        ) from error
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _refuse_what_llama_lacks(config)
    writer = gguf.GGUFWriter(target / "model.gguf", "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, folder, config)
    heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}
    for name, values in _tensors(folder / "model.safetensors"):
        stem, _, kind = name.rpartition(".")
        known = _gguf_name(stem)
        is_rotated = known.endswith(("attn_q", "attn_k"))
        writer.add_tensor(f"{known}.{kind}", _in_pairs(values, heads[known[-1]]) if is_rotated else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _refuse_what_llama_lacks(config: Mapping[str, Any]) -> None:
    if config["model_type"] != "llama":
        raise NotApplicable(f"the form 'gguf' is written for 'llama' only, not for {config['model_type']!r}")
    if config["rope_parameters"].get("partial_rotary_factor", 1.0) != 1.0:
        raise NotApplicable("the form 'gguf' is written for whole rotary embeddings only")


def _gguf_name(stem: str) -> str:
    if stem in _WHOLE:
        return _WHOLE[stem]
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER[part]}"


def _in_pairs(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of a projection in llama.cpp's order: the two halves of a head's rotation beside each other."""
    size = values.shape[0] // num_heads // 2
    return np.ascontiguousarray(values.reshape(num_heads, 2, size, -1).swapaxes(1, 2).reshape(values.shape))


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The tensors of a safetensors file of bfloat16 or float32, which all the kit's checkpoints are."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:begin]).items():
        if name == "__metadata__":
            continue
        first, last = (begin + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            wide = np.frombuffer(data[first:last], "<u2").astype(np.uint32) << 16
            values = wide.view(np.float32)
        else:
            values = np.frombuffer(data[first:last], "<f4").astype(np.float32)
        yield name, values.reshape(entry["shape"])


def _add_tokenizer(writer: Any, folder: Path, config: Mapping[str, Any]) -> None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        # Its server wants a vocabulary; one of this kind has no end tokens unless they are named.
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list([f"<{number}>" for number in range(config["vocab_size"])])
        writer.add_token_types([1] * config["vocab_size"])
        return
    said = json.loads(path.read_text(encoding="utf-8"))
    by_id = {number: token for token, number in said["model"]["vocab"].items()}
    special = {item["id"]: item["content"] for item in said["added_tokens"]}
    tokens = [special.get(number, by_id.get(number)) for number in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    # 3 is a control token, 1 a normal one.
    writer.add_token_types([3 if number in special else 1 for number in range(len(tokens))])
    # llama.cpp wants at least one; this one never applies, since special tokens come from no text.
    writer.add_token_merges([f"{special[config['bos_token_id']]} {special[config['eos_token_id']]}"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
