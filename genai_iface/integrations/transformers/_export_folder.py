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
from typing import Any, Protocol, runtime_checkable

import onnx

from genai_iface.errors import InvalidInputError, UnsupportedModelError
from genai_iface.folder import find_inside, open_root, read_json

__all__ = ["Exported", "OpenedExport", "open_export"]

_MANIFEST, _MODEL, _DECODE = "export.json", "model.onnx", "decode"
_OTHER_RUNTIMES = {"openvino": "OpenVINO", "executorch": "ExecuTorch", "dynamo": "torch"}


@runtime_checkable
class Exported(Protocol):
    """What is used of an ``ExportedModel`` of Transformers."""

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes export.json, the graphs and the configurations."""


@dataclass(frozen=True, slots=True)
class OpenedExport:
    """An exported folder as backends read it.

    Attributes:
        folder: A folder with ``model.onnx``.
        tokens_per_step: 1 if the graph takes one token of each row at a time, None if any number.
        note: What else there is to know; empty for nothing.
    """

    folder: Path
    tokens_per_step: int | None = None
    note: str = ""


@contextmanager
def open_export(source: str | PathLike[str] | Exported, /, *, texts: Any = None) -> Iterator[OpenedExport]:
    """Opens what Transformers exported, for as long as the block runs.

    Args:
        source: A folder with ``export.json``, or an ``ExportedModel``.
        texts: Where the tokenizer is if not in that folder: a folder with tokenizer.json, or a tokenizer of Transformers.

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
        shutil.copyfile(file, folder / _MODEL)
        _add_texts(texts, folder)
        yield OpenedExport(folder, _tokens_per_step(file))


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


def _add_texts(texts: Any, folder: Path) -> None:
    """Puts the tokenizer's files beside the graph."""
    if texts is None:
        return
    if isinstance(texts, (str, PathLike)):
        for companion in _companions(open_root(texts)):
            if companion.suffix in (".json", ".jinja", ".txt") and not (folder / companion.name).exists():
                shutil.copyfile(companion, folder / companion.name)
        return
    texts.save_pretrained(folder)


def _tokens_per_step(file: Path) -> int | None:
    """Whether the axis of the tokens was fixed when the graph was traced.

    Raises:
        UnsupportedModelError: It, or that of the rows, was fixed to a number that no loop can keep.
    """
    graph = onnx.load(file, load_external_data=False).graph
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.input}
    ids = shapes.get("input_ids")
    if ids is None or len(ids) != 2:
        raise UnsupportedModelError(
            f"The graph in {file.name} has no input input_ids (B, S)", remedy="Only decoders of text can be opened."
        )
    if ids[0].dim_value:
        raise UnsupportedModelError(
            f"{file.name} was traced for batches of {ids[0].dim_value} rows only",
            remedy="Export with OnnxConfig(dynamic=True) and sample inputs of two rows.",
        )
    if ids[1].dim_value > 1:
        raise UnsupportedModelError(
            f"{file.name} was traced for steps of {ids[1].dim_value} tokens only",
            remedy="Export with OnnxConfig(dynamic=True).",
        )
    return ids[1].dim_value or None
