# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A folder that the runtime has loaded, with what its genai_config.json says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime_genai

from genai_iface.errors import BackendError, InvalidInputError
from genai_iface.folder import find_inside, open_root

__all__ = ["LoadedModel", "load_folder"]

_REMEDY = "Make one with python -m onnxruntime_genai.models.builder, or use the backend 'ort'."


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that the runtime holds.

    Attributes:
        handle: The runtime's object.
        vocab_size: V.
        context_length: Most tokens of a sequence.
        eos_token_ids: What ends a sequence by itself.
    """

    handle: Any
    vocab_size: int
    context_length: int
    eos_token_ids: frozenset[int]


def load_folder(folder: Path, /) -> LoadedModel:
    """Loads a folder of ONNX Runtime GenAI.

    Raises:
        InvalidInputError: The folder is missing, has no genai_config.json, or a broken one.
        BackendError: The runtime refused it.
    """
    root = open_root(folder)
    path = find_inside(root, "genai_config.json")
    if path is None:
        raise InvalidInputError(f"There is no genai_config.json in {str(folder)!r}", remedy=_REMEDY)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["model"]
        ends = said["eos_token_id"]
        vocab_size, context_length = int(said["vocab_size"]), int(said["context_length"])
        eos_token_ids = frozenset(map(int, ends if isinstance(ends, list) else [ends]))
        parts = [str(part["filename"]) for part in said.values() if isinstance(part, dict) and "filename" in part]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{str(path)!r} is not understood: {error!r}", remedy=_REMEDY) from error
    for name in parts:
        if find_inside(root, name) is None:
            raise InvalidInputError(f"genai_config.json names {name!r}, which {str(folder)!r} lacks", remedy=_REMEDY)
    try:
        handle = onnxruntime_genai.Model(str(root))
    except RuntimeError as error:
        raise BackendError(
            f"ONNX Runtime GenAI cannot load {str(folder)!r}: {str(error)[:300]}", remedy=_REMEDY
        ) from error
    return LoadedModel(handle, vocab_size, context_length, eos_token_ids)
