# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A folder that the runtime has loaded, with what its genai_config.json says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime_genai

from genai_iface.errors import BackendError, InvalidInputError, UnsupportedModelError
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
        UnsupportedModelError: Its configuration names a library to load.
        BackendError: The runtime refused it.
    """
    root = open_root(folder)
    path = find_inside(root, "genai_config.json")
    if path is None:
        raise InvalidInputError(f"There is no genai_config.json in {str(folder)!r}", remedy=_REMEDY)
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        said = whole["model"]
        ends = said["eos_token_id"]
        vocab_size, context_length = int(said["vocab_size"]), int(said["context_length"])
        eos_token_ids = frozenset(map(int, ends if isinstance(ends, list) else [ends]))
        parts = [str(part["filename"]) for part in said.values() if isinstance(part, dict) and "filename" in part]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{str(path)!r} is not understood: {error!r}", remedy=_REMEDY) from error
    _refuse_libraries(whole, folder)
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


def _refuse_libraries(value: Any, folder: Path) -> None:
    """Refuses a configuration that makes the runtime load native code of the folder's choice.

    Raises:
        UnsupportedModelError: A key names a library.
    """
    if isinstance(value, dict):
        named = next((key for key in value if "library" in key.lower() or "custom_op" in key.lower()), None)
        if named is not None:
            raise UnsupportedModelError(
                f"genai_config.json in {str(folder)!r} has the runtime load a library ({named}), which would be run",
                remedy="Remove the entry if the model works without it.",
            )
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_libraries(item, folder)
