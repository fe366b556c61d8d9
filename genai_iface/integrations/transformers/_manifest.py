# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers' ``export.json`` for a model folder of this SDK."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers.exporters import ExportMetadata
from transformers.modeling_outputs import CausalLMOutputWithPast

from genai_iface._new_files import new_file
from genai_iface.errors import InvalidInputError
from genai_iface.folder import open_folder, read_json

__all__ = ["EXPORT_FORMAT", "step_metadata", "write_manifest"]

EXPORT_FORMAT = "genai_iface"
"""The name under which Transformers finds our exporter and our runner."""

_MANIFEST, _MODEL = "export.json", "model.onnx"
_PACKAGES = ("genai-iface", "onnx", "torch", "transformers")


def write_manifest(folder: str | PathLike[str], /) -> Path:
    """Writes ``export.json`` into a model folder, so that ``ExportedModel.from_pretrained`` opens it.

    Args:
        folder: A folder with ``model.onnx``.

    Returns:
        The file.

    Raises:
        InvalidInputError: The folder is broken, its graph lies elsewhere, or it has an export.json of another exporter.
        UnsupportedModelError: The graph follows no known pattern.
    """
    opened = open_folder(folder)
    present = read_json(opened.path, _MANIFEST)
    if present is not None and present.get("export_format") != EXPORT_FORMAT:
        raise InvalidInputError(
            f"{str(opened.path)!r} has an {_MANIFEST} of the format {present.get('export_format')!r}",
            remedy="Copy model.onnx and its companions to a folder of their own.",
        )
    if opened.files[0] != opened.path / _MODEL:
        raise InvalidInputError(
            f"The graph of {str(opened.path)!r} is {opened.files[0].name}, expected {_MODEL}",
            remedy="Build or convert the model into a folder of its own first.",
        )
    names = opened.config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else None
    cached = opened.signature.cache.layers[0].dtype
    metadata = step_metadata(architecture, "float32" if cached == "int8" else cached)
    manifest = {
        "schema_version": 1,
        "export_format": EXPORT_FORMAT,
        "components": {"model": {"file": _MODEL, "metadata": dataclasses.asdict(metadata)}},
    }
    target = opened.path / _MANIFEST
    with new_file(target) as file:
        file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return target


def step_metadata(architecture: str | None, dtype: str) -> ExportMetadata:
    """What Transformers records of a graph, for one that takes any number of tokens and a cache."""
    cache = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
    _, output = torch.utils._pytree.tree_flatten(CausalLMOutputWithPast(**{"logits": 0, cache: 0}))
    integers: dict[str, Any] = {"rank": 2, "dtype": "int64"}
    return ExportMetadata(
        architecture=architecture,
        packages={name: version(name) for name in _PACKAGES},
        export_config={"export_format": EXPORT_FORMAT},
        export_dtype=dtype,
        export_device="cpu",
        kwargs={
            **dict.fromkeys(("input_ids", "attention_mask", "position_ids"), integers),
            "cache": {"container": "StepCache"},
        },
        out_spec=torch.utils._pytree.treespec_dumps(output),
    )
