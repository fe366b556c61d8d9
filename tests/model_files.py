# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a tiny model folder besides the graph: a byte-level tokenizer and the JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from tests.models import ModelOptions

# Ids 256 and up; one id per byte lies below.
SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
BOS, EOS, PAD = 256, 257, 258

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def write_tokenizer_files(path: Path) -> None:
    """Writes tokenizer.json (id = byte value), tokenizer_config.json and chat_template.jinja."""
    # The byte-level alphabet in byte order: printable bytes stand for themselves, the others for U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE({letters[byte]: byte for byte in range(256)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.save(str(path / "tokenizer.json"))
    _write(
        path / "tokenizer_config.json",
        {"bos_token": "<|bos|>", "eos_token": {"content": "<|eos|>", "special": True}, "pad_token": "<|pad|>"},
    )
    (path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def write_config_files(path: Path, options: ModelOptions) -> None:
    """Writes config.json and generation_config.json in Hugging Face's spelling."""
    _write(
        path / "config.json",
        {
            "architectures": ["TinyForCausalLM"],
            "hidden_size": options.hidden,
            "num_hidden_layers": options.layers,
            "num_attention_heads": options.num_heads,
            "max_position_embeddings": options.max_positions,
            "vocab_size": options.vocab_size,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
    )
    _write(path / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD})


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
