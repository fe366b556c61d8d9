# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Names by which a person finds the parts of an exported graph."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["name_parts"]

_WRAPPER = "network."


def name_parts(model: ir.Model) -> None:
    """Names cache writes and attention after their layer, and weights as in the checkpoint.

    Args:
        model: With caches named "key_cache.0" and so on. It is changed in place.
    """
    taken = {str(node.name) for node in model.graph}
    for value in model.graph.inputs:
        kind, _, layer = str(value.name).partition("_cache.")
        if kind not in ("key", "value") or not layer.isdecimal():
            continue
        for writer, _ in value.uses():
            _rename(writer, f"layers.{layer}.{kind}_scatter", taken)
            for reader, _ in writer.outputs[0].uses():
                if reader.op_type == "Attention" and kind == "key":
                    _rename(reader, f"layers.{layer}.attention", taken)
    for name, weight in list(model.graph.initializers.items()):
        short = name.removeprefix(_WRAPPER)
        if short != name and short not in model.graph.initializers:
            weight.name = short


def _rename(node: ir.Node, name: str, taken: set[str]) -> None:
    """A layer whose cache several attentions read has only one of that name."""
    if name not in taken:
        taken.add(name)
        node.name = name
