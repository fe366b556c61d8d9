# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rewritten graphs on disk, so that the next process need not rewrite them again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnxruntime

from genai_iface.errors import InvalidInputError
from genai_iface.folder import ModelFolder
from genai_iface.graph import CacheTensor, GraphSignature
from genai_iface.types import CacheSpec, Device, LayerCacheSpec
from genai_iface_ort.options import LoadOptions

__all__ = ["StoredGraph", "find_stored", "store", "write_graph"]

_FORMAT = 2
# Smaller constants go inline: the runtime's shape inference does not read files.
_SMALL = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True)
class StoredGraph:
    """A rewritten graph on disk.

    Attributes:
        path: The model.onnx of the rewritten graph.
        signature: How to drive it.
        facts: What else ``Prepared`` needs, as it was given to ``store``.
    """

    path: Path
    signature: GraphSignature
    facts: dict[str, Any]


def write_graph(model: ir.Model, directory: Path) -> Path:
    """Writes a graph and all its weights into a directory and returns the path of its model.onnx.

    Raises:
        OSError: The disk is full.
    """
    ir.save(model, directory / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=_SMALL)
    return directory / "model.onnx"


def find_stored(root: Path, folder: ModelFolder, options: LoadOptions, device: Device) -> StoredGraph | None:
    """The graph that an earlier process stored for the same model, runtime and options.

    Raises:
        InvalidInputError: It is broken.
    """
    directory = _directory_of(root, folder, options, device)
    if not (directory / "graph.json").is_file():
        return None
    try:
        saved = json.loads((directory / "graph.json").read_text(encoding="utf-8"))
        return StoredGraph(directory / "model.onnx", _signature(saved["signature"]), saved["facts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(
            f"The stored graph in {str(directory)!r} is broken: {error}", remedy="Delete it."
        ) from error


def store(
    root: Path,
    model: ir.Model,
    signature: GraphSignature,
    facts: dict[str, Any],
    folder: ModelFolder,
    options: LoadOptions,
    device: Device,
) -> StoredGraph:
    """Writes a rewritten graph with all its weights, under a temporary name first.

    Raises:
        InvalidInputError: The directory cannot be written.
    """
    directory = _directory_of(root, folder, options, device)
    temporary = directory.with_name(f".{directory.name}.{secrets.token_hex(8)}.tmp")
    described = dataclasses.asdict(dataclasses.replace(signature, evidence=()))
    try:
        try:
            temporary.mkdir(parents=True)
            write_graph(model, temporary)
            text = json.dumps({"signature": described, "facts": facts})
            (temporary / "graph.json").write_text(text, encoding="utf-8")
            if not directory.exists():
                temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if not directory.exists():
            raise InvalidInputError(
                f"The rewritten graph cannot be stored in {str(root)!r}: {error}",
                remedy="Choose a writable cache_dir with space for a second copy of the weights, or leave it out.",
            ) from error
    return StoredGraph(directory / "model.onnx", signature, facts)


def _directory_of(root: Path, folder: ModelFolder, options: LoadOptions, device: Device) -> Path:
    """A directory of its own for everything that the rewritten graph depends on."""
    parts = [
        _FORMAT,
        folder.fingerprint,
        list(folder.changes),
        version("genai-iface"),
        onnxruntime.__version__,
        ir.__version__,
        options.optimize,
        device.kind,
    ]
    return root / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _signature(saved: dict[str, Any]) -> GraphSignature:
    cache = saved["cache"]
    layers = tuple(LayerCacheSpec(**layer) for layer in cache["layers"])
    return GraphSignature(
        **{
            **saved,
            "cache": CacheSpec(style=cache["style"], layout=cache["layout"], layers=layers),
            "cache_tensors": tuple(CacheTensor(**tensor) for tensor in saved["cache_tensors"]),
            "evidence": (),
        }
    )
