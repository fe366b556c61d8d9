# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the manifest of Transformers' exporters says of the graphs beside it: ``export.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genai_iface.errors import InvalidInputError, UnsupportedModelError

__all__ = ["EXPORT_MANIFEST", "ExportedParts", "exported_parts", "refuse_other_format"]

EXPORT_MANIFEST = "export.json"

# Of an export in parts, what takes a cache comes first. The others only begin a sequence.
_CONTINUES, _BEGINS = ("decode", "model"), "prefill"
_OTHER_RUNTIMES = {"openvino": "OpenVINO", "executorch": "ExecuTorch", "dynamo": "torch"}
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class ExportedParts:
    """The graphs of one export, by what they are for.

    Attributes:
        continues: The file that takes a cache; None if there is none.
        begins: The file that takes prompts alone; None if there is none.
        others: The names of components that are no part of a decoder of text.
    """

    continues: str | None
    begins: str | None
    others: tuple[str, ...]


def exported_parts(manifest: Mapping[str, Any], models: Sequence[str], place: str) -> ExportedParts | None:
    """Reads a manifest.

    Args:
        manifest: What export.json holds.
        models: The .onnx files beside it.
        place: The folder, for messages.

    Returns:
        None if it is no manifest of ONNX graphs: other programs may write a file of that name.

    Raises:
        InvalidInputError: It names a file that is not there.
    """
    form, components = manifest.get("export_format"), manifest.get("components")
    if not isinstance(form, str) or form in _OTHER_RUNTIMES or not isinstance(components, Mapping) or not components:
        return None
    chosen = next((name for name in _CONTINUES if name in components), None)
    others = tuple(sorted(str(name) for name in components if name not in (*_CONTINUES, _BEGINS)))
    begins = _file_of(components.get(_BEGINS)) if chosen != "model" else None
    begins = begins if begins in models else None  # whoever fetched what is needed left it out
    continues = None if chosen is None else _file_of(components[chosen])
    if chosen is not None and continues not in models:
        raise InvalidInputError(
            f"{EXPORT_MANIFEST} of {place} gives {json.dumps(continues)[:_SHOWN]} as the file of {chosen!r}, and there "
            "is no such .onnx file",
            remedy="Copy the folder again, with all files, or export the model again.",
        )
    return ExportedParts(continues, begins, others)


def refuse_other_format(manifest: Mapping[str, Any], place: str) -> None:
    """Refuses an export for another runtime.

    Raises:
        UnsupportedModelError: It is one.
    """
    form = manifest.get("export_format")
    if form in _OTHER_RUNTIMES:
        raise UnsupportedModelError(
            f"{place} was exported for {_OTHER_RUNTIMES[form]} (export_format {form!r} in {EXPORT_MANIFEST})",
            remedy="Export with OnnxExporter.",
        )


def _file_of(entry: object) -> str | None:
    file = entry.get("file") if isinstance(entry, Mapping) else None
    return file if isinstance(file, str) else None
