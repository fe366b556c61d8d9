# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""LinearAttention and CausalConvWithState in ONNX Runtime's own domain, and the rest of the graph at version 24.

The runtime has kernels for both under its own names and expands the standard ones into dozens of nodes. It also expands
Attention from version 25 on, where its kernel is registered for 24; so a graph of version 27, which it has to be on
disk, goes back as far as its other operators allow.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from genai_iface.graph import is_op

__all__ = ["use_contrib_states"]

_OPERATORS = ("CausalConvWithState", "LinearAttention")
_DOMAIN = "com.microsoft"
_OLD, _OLD_IR = 24, 11


def use_contrib_states(model: ir.Model) -> str:
    """Moves the operators, and declares version 24 of the standard if nothing else in the graph is newer.

    Args:
        model: Changed in place.

    Returns:
        One line that says what was done; empty if the graph has neither operator.
    """
    nodes = [node for node in model.graph.all_nodes() if is_op(node, *_OPERATORS)]
    if not nodes:
        return ""
    version = model.opset_imports.get("", 0)
    for node in nodes:
        node.domain = _DOMAIN
    model.opset_imports[_DOMAIN] = 1
    moved = f"{len(nodes)} state operators run as {_DOMAIN}'s"
    newer = sorted({node.op_type for node in _newer(model, version)})
    if newer:
        return f"states: {moved}; the graph stays at version {version}, for {', '.join(newer)}"
    if version > _OLD:
        model.opset_imports[""] = _OLD
        model.ir_version = min(model.ir_version, _OLD_IR)
        moved += f", the others at version {_OLD} of the standard instead of {version}"
    return f"states: {moved}"


def _newer(model: ir.Model, version: int) -> Iterator[ir.Node]:
    """The nodes that mean nothing, or something else, at the old version."""
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            continue
        if onnx.defs.get_schema(node.op_type, version).since_version <= _OLD:
            continue
        try:
            old = onnx.defs.get_schema(node.op_type, _OLD)
        except onnx.defs.SchemaError:
            yield node
            continue
        if node.attributes.keys() - old.attributes.keys() or len(node.inputs) > old.max_input:
            yield node
