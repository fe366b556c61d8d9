# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a model folder beside model.onnx: configuration, tokenizer, chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genai_iface.build.checkpoint import Checkpoint
from genai_iface.build.checkpoint.quantization import FIELDS
from genai_iface.folder._files import TEMPLATES_FOLDER, TOKENIZER_FILES, find_inside, list_inside

__all__ = ["write_folder_files"]

_TOKENIZER = (
    *TOKENIZER_FILES,
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_OTHERS = ("generation_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md")
# Of the machine that loaded the checkpoint.
_PATHS = ("_name_or_path", "name_or_path")
# In config.json of a decoder that was taken out of a network: the model type of the whole.
_PART_OF = "text_only_of"
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")


def write_folder_files(
    checkpoint: Checkpoint, network: Any, out: Path, *, context: int | None, tokenizer: Path | None = None
) -> list[str]:
    """Copies what belongs to the checkpoint; from a GGUF file it is written anew.

    Args:
        checkpoint: The checkpoint that the model was built from.
        network: The loaded network, for its configuration.
        out: The folder to write into.
        context: Tokens that a sequence may have, put into config.json; None leaves it.
        tokenizer: Folder to take the tokenizer's files from; the checkpoint's own if None.

    Returns:
        The names of the files.
    """
    written = ["config.json"]
    config = json.loads(network.config.to_json_string(use_diff=False))
    if checkpoint.gguf is None:
        whole = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        if network.config.model_type == whole.get("model_type"):
            config = whole
        else:
            config[_PART_OF] = whole.get("model_type")
        written += _copied(checkpoint.folder, out, _OTHERS)
        written += _copied(tokenizer or _tokenizer_folder(checkpoint), out, _TOKENIZER)
    else:
        network.generation_config.save_pretrained(out)
        if tokenizer is None:
            from genai_iface.build.gguf import write_tokenizer

            write_tokenizer(checkpoint.folder / checkpoint.gguf, out)
        else:
            _copied(tokenizer, out, _TOKENIZER)
        written += sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    _fit(config, network.config.get_text_config().vocab_size if checkpoint.adapters else None)
    if context is not None:
        _limit(config, context)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return written


def _copied(folder: Path, out: Path, names: Sequence[str]) -> list[str]:
    """Copies those files that a folder has, and its further chat templates with the tokenizer."""
    more = list_inside(folder, TEMPLATES_FOLDER, ".jinja") if names is _TOKENIZER else []
    found = {name: find_inside(folder, name) for name in (*names, *(f"{TEMPLATES_FOLDER}/{name}" for name in more))}
    for name, source in found.items():
        if source is not None:
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, out / name)
    return [name for name, source in found.items() if source is not None]


def _tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """Where the tokenizer comes from: one that was saved with an adapter goes before that of the base."""
    for adapter in reversed(checkpoint.adapters):
        if find_inside(adapter.folder, "tokenizer.json") is not None:
            return adapter.folder
    return checkpoint.folder


def _fit(config: dict[str, Any], vocab_size: int | None) -> None:
    """The configuration of the weights as they are now: floats, and with the tokens that an adapter added."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for name in (*FIELDS, *_PATHS):
                part.pop(name, None)
            if vocab_size is not None and isinstance(part.get("vocab_size"), int):
                part["vocab_size"] = vocab_size


def _limit(config: dict[str, Any], context: int) -> None:
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for name in _LENGTHS:
                if isinstance(part.get(name), int):
                    part[name] = min(part[name], context)
