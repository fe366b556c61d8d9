# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a GGUF file, written as tokenizer.json: Transformers reads it, but for how text is split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from genai_iface.build.checkpoint.quiet import quiet_transformers
from genai_iface.build.gguf.pre_tokenizers import KNOWN, Rule, pre_tokenizer
from genai_iface.errors import UnsupportedModelError

__all__ = ["split_rule", "write_tokenizer"]

_MODEL, _PRE, _TOKENS = "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"
_BYTE_PAIRS = "gpt2"
_LOCAL = ("name_or_path", "_name_or_path", "gguf_file", "vocab_file", "tokenizer_file", "local_files_only")
_REMEDY = "Give a folder with the model's own tokenizer.json: --tokenizer FOLDER."


def split_rule(path: Path) -> Rule | None:
    """How the tokenizer of a file splits text, None if its kind needs no rule or it carries no tokenizer.

    Raises:
        UnsupportedModelError: The file names no rule, or one that is not known.
    """
    fields = gguf.GGUFReader(path).fields
    kind, rule = (fields[name].contents() if name in fields else None for name in (_MODEL, _PRE))
    if kind != _BYTE_PAIRS or _TOKENS not in fields:
        return None
    if rule is None:
        raise UnsupportedModelError(
            f"{path.name!r} does not say how its tokenizer splits text ({_PRE} is missing)", remedy=_REMEDY
        )
    if rule not in KNOWN:
        raise UnsupportedModelError(
            f"{path.name!r} names a way to split text that is not known: {_PRE}={str(rule)[:60]!r}; known are "
            f"{', '.join(sorted(KNOWN))}",
            remedy=_REMEDY,
        )
    return KNOWN[str(rule)]


def write_tokenizer(path: Path, out: Path) -> None:
    """Writes the tokenizer files, if the file carries a tokenizer.

    Args:
        path: The GGUF file.
        out: The folder to write into.

    Raises:
        UnsupportedModelError: As ``split_rule``.
    """
    from transformers import AutoTokenizer

    rule = split_rule(path)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False
            )
    except (KeyError, ValueError, TypeError, OSError, ImportError):
        return  # a file without a vocabulary; the model can still be driven with ids
    if rule is not None:
        _apply(tokenizer.backend_tokenizer, rule)
    tokenizer.save_pretrained(out)
    settings = out / "tokenizer_config.json"
    if settings.exists():
        content: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
        kept = {name: value for name, value in content.items() if name not in _LOCAL}
        settings.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _apply(tokenizer: Tokenizer, rule: Rule) -> None:
    tokenizer.pre_tokenizer = pre_tokenizer(rule.expressions)
    tokenizer.model.ignore_merges = rule.ignore_merges
