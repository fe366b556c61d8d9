# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a model folder beside model.onnx: configuration, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from genai_iface.build._checkpoint import Checkpoint, quiet_transformers
from genai_iface.folder._files import find_inside, list_inside

__all__ = ["write_folder_files"]

_COPIED = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
)
_TEMPLATES = "additional_chat_templates"
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")


def write_folder_files(checkpoint: Checkpoint, network: Any, out: Path, *, context: int | None) -> list[str]:
    """Copies what belongs to the checkpoint; from a GGUF file it is written anew.

    Args:
        checkpoint: The checkpoint that the model was built from.
        network: The loaded network, for its configuration.
        out: The folder to write into.
        context: Tokens that a sequence may have, put into config.json; None leaves it.

    Returns:
        The names of the files.
    """
    written = ["config.json"]
    config = json.loads(network.config.to_json_string(use_diff=False))
    if checkpoint.gguf is None:
        config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        more = [f"{_TEMPLATES}/{name}" for name in list_inside(checkpoint.folder, _TEMPLATES, ".jinja")]
        for name in (*_COPIED, *more):
            source = find_inside(checkpoint.folder, name)
            if source is not None:
                (out / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, out / name)
                written.append(name)
    else:
        written += _from_gguf(checkpoint, network, out)
    if context is not None:
        _limit(config, context)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return written


def _from_gguf(checkpoint: Checkpoint, network: Any, out: Path) -> list[str]:
    """The tokenizer that the file carries, if it does, and the generation settings."""
    from transformers import AutoTokenizer

    network.generation_config.save_pretrained(out)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.folder, gguf_file=checkpoint.gguf, local_files_only=True, trust_remote_code=False
            )
    except (KeyError, ValueError, TypeError, OSError, ImportError):
        pass  # a file without a vocabulary; the model can still be driven with ids
    else:
        tokenizer.save_pretrained(out)
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def _limit(config: dict[str, Any], context: int) -> None:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for name in _LENGTHS:
                if isinstance(part.get(name), int):
                    part[name] = min(part[name], context)
