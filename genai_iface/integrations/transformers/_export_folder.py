# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of Transformers' exporters (``export.json``, ``decode.onnx``), opened as a model folder."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

import onnx

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import find_inside, open_root, read_json
from genai_iface.folder._files import TOKENIZER_FILES
from genai_iface.integrations.transformers._one_row import OneRowBackend
from genai_iface.protocols import Backend
from genai_iface.registry import load_backend

__all__ = ["Exported", "OpenedExport", "open_export"]

_MANIFEST, _MODEL, _DECODE = "export.json", "model.onnx", "decode"
_BESIDE = (*TOKENIZER_FILES, "generation_config.json")
_OTHER_RUNTIMES = {"openvino": "OpenVINO", "executorch": "ExecuTorch", "dynamo": "torch"}


class Exported(Protocol):
    """What is used of an ``ExportedModel`` or a tokenizer of Transformers."""

    def save_pretrained(self, save_directory: str | PathLike[str]) -> object:
        """Writes its files into a folder."""


@dataclass(frozen=True, slots=True)
class OpenedExport:
    """An exported folder as backends read it.

    Attributes:
        folder: A folder with ``model.onnx``.
        one_row: Whether the graph was traced with one prompt and takes no other number of rows.
        one_token: Whether it takes one token of each row at a time.
    """

    folder: Path
    one_row: bool = False
    one_token: bool = False

    def on(self, backend: str | Backend) -> Backend:
        """The backend to load the folder on; where the graph takes one row, one that says so of its models.

        Raises:
            BackendNotFoundError: There is none of that name.
        """
        chosen = load_backend(backend) if isinstance(backend, str) else backend
        return OneRowBackend(chosen) if self.one_row else chosen


@contextmanager
def open_export(
    source: str | PathLike[str] | Exported, /, *, tokenizer: str | PathLike[str] | Exported | None = None
) -> Iterator[OpenedExport]:
    """Opens what Transformers exported, for as long as the block runs.

    Args:
        source: A folder with ``export.json``, or an ``ExportedModel``.
        tokenizer: Where the tokenizer is if not in that folder: a folder with tokenizer.json, or a fast tokenizer of
            Transformers.

    Raises:
        InvalidInputError: A file is missing or broken.
        UnsupportedModelError: The export is for another runtime, or is not one decoder of text.
    """
    with tempfile.TemporaryDirectory(prefix="genai-iface-") as made:
        place = Path(made)
        if isinstance(source, (str, PathLike)):
            root = open_root(source)
        else:
            root = place / "exported"
            source.save_pretrained(root)
        folder = place / "folder"
        folder.mkdir()
        file = _model_file(root)
        for companion in _companions(root):
            shutil.copyfile(companion, folder / companion.name)
        model = onnx.load(file, load_external_data=False)
        one_row, one_token = _fixed_axes(model, file.name)
        _drop_constants(model)
        onnx.save(model, folder / _MODEL)
        _add_tokenizer(tokenizer, folder)
        yield OpenedExport(folder, one_row, one_token)


def _model_file(root: Path) -> Path:
    """The graph that continues a sequence, or the only one."""
    manifest = read_json(root, _MANIFEST)
    if manifest is None:
        raise InvalidInputError(
            f"There is no {_MANIFEST} in {str(root)!r}",
            remedy="Give a folder that ExportedModel.save_pretrained wrote; other folders open without this entrance.",
        )
    form, components = manifest.get("export_format"), manifest.get("components")
    if form in _OTHER_RUNTIMES:
        raise UnsupportedModelError(
            f"{str(root)!r} was exported for {_OTHER_RUNTIMES[form]} (export_format {form!r})",
            remedy="Export with OnnxExporter.",
        )
    if not isinstance(components, Mapping) or not components:
        raise InvalidInputError(f"{_MANIFEST} in {str(root)!r} names no components", remedy="Export the model again.")
    if _DECODE in components and set(components) <= {_DECODE, "prefill"}:
        chosen = _DECODE
    elif set(components) == {"model"}:
        chosen = "model"
    else:
        raise UnsupportedModelError(
            f"{str(root)!r} has the components {', '.join(sorted(map(str, components)))}, expected prefill and decode",
            remedy="Only decoders of text can be opened.",
        )
    entry = components[chosen]
    name = entry.get("file") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or not name.endswith(".onnx"):
        raise InvalidInputError(
            f"{_MANIFEST} in {str(root)!r} gives {json.dumps(name)[:80]} as the file of {chosen!r}, expected NAME.onnx",
            remedy="Export the model again.",
        )
    file = find_inside(root, name)
    if file is None:
        raise InvalidInputError(f"There is no {name} in {str(root)!r}", remedy="Copy the folder again, with all files.")
    return file


def _companions(root: Path) -> Iterator[Path]:
    """The files beside the graphs, external data among them."""
    for path in sorted(root.iterdir()):
        if path.is_file() and path.suffix != ".onnx" and path.name != _MANIFEST:
            inside = find_inside(root, path.name)
            if inside is not None:
                yield inside


def _add_tokenizer(tokenizer: str | PathLike[str] | Exported | None, folder: Path) -> None:
    """Puts the tokenizer's files beside the graph; those that are there already stay."""
    if tokenizer is None:
        return
    if not isinstance(tokenizer, (str, PathLike)):
        tokenizer.save_pretrained(folder)
        return
    root = open_root(tokenizer)
    for name in _BESIDE:
        file = find_inside(root, name)
        if file is not None and not (folder / name).exists():
            shutil.copyfile(file, folder / name)


def _fixed_axes(model: onnx.ModelProto, name: str) -> tuple[bool, bool]:
    """Whether the axis of the rows and that of the tokens were fixed to 1 when the graph was traced.

    Raises:
        UnsupportedModelError: One was fixed to another number, which no loop can keep.
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    ids = shapes.get("input_ids")
    if ids is None or len(ids) != 2:
        raise UnsupportedModelError(
            f"The graph in {name} has no input input_ids (B, S)", remedy="Only decoders of text can be opened."
        )
    for dim, what in zip(ids, ("rows", "tokens"), strict=True):
        if dim.dim_value > 1:
            raise UnsupportedModelError(
                f"{name} was traced for steps of {dim.dim_value} {what} and takes no other number",
                remedy="Export with OnnxConfig(dynamic=True).",
            )
    return ids[0].dim_value == 1, ids[1].dim_value == 1


def _drop_constants(model: onnx.ModelProto) -> None:
    """Removes numbers that go in and come out as they are: the window that a layer's cache carries about."""
    graph = model.graph
    scalars = {value.name for value in graph.input if not value.type.tensor_type.shape.dim}
    outputs = {value.name for value in graph.output}
    passed = {
        node.input[0]: node
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in scalars and node.output[0] in outputs
    }
    used = {name for node in graph.node if node.op_type != "Identity" for name in node.input}
    for name, node in passed.items():
        if name in used:
            continue
        for values, gone in ((graph.input, name), (graph.output, node.output[0])):
            values.remove(next(value for value in values if value.name == gone))
        graph.node.remove(node)
