# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Declares another version of the default operator domain where the nodes mean the same in it."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import describe, input_at, is_op, unsupported

__all__ = ["check_age", "raise_opset"]

_OLDEST = 13
_EXPORT = "Export the model at opset 18 or later."

# Operators whose meaning, not just its list of types, changed after the version given.
_CHANGED = {
    "BatchNormalization": 15,
    "GRU": 14,
    "GridSample": 20,
    "GroupNormalization": 21,
    "LSTM": 14,
    "RNN": 14,
    "Resize": 19,
    "RoiAlign": 16,
    "DFT": 20,
}
_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)


def raise_opset(model: ir.Model, version: int) -> None:
    """Declares another opset. Raising it, axes of reductions and parts of Split take their new form.

    Args:
        model: The model, changed in place.
        version: The wanted version.

    Raises:
        UnsupportedModelError: The model is too old, or a node does not exist in that version or means something else.
    """
    imports = model.graph.opset_imports
    domain = "" if "" in imports else "ai.onnx"
    old = imports.get(domain, 0)
    if old > version:
        _check_lowered(model, old, version)
    else:
        check_age(old)
    edit = Editor(model.graph, "opset")
    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if old < _CHANGED.get(node.op_type, 0):
            raise unsupported(
                f"The {describe(node)} means something else from opset {_CHANGED[node.op_type]} on, the model is of "
                f"opset {old}",
                _EXPORT,
            )
        if is_op(node, *_REDUCTIONS) and "axes" in node.attributes:
            _axes_as_input(edit, node)
        elif is_op(node, "Split") and input_at(node, 1) is None and "num_outputs" not in node.attributes:
            node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))
        node.version = None
    imports[domain] = version
    model.ir_version = max(model.ir_version, 11)


def check_age(opset: int) -> None:
    """Refuses a model whose operators differ too much from those of today.

    Raises:
        UnsupportedModelError: It is older than opset 13, where Softmax and Squeeze took their form.
    """
    if opset < _OLDEST:
        raise unsupported(f"The model is of opset {opset}, at least {_OLDEST} can be converted", _EXPORT)


def _axes_as_input(edit: Editor, node: ir.Node) -> None:
    axes = edit.ints(*node.attributes.pop("axes").as_ints())
    if len(node.inputs) > 1:
        node.replace_input_with(1, axes)
    else:
        node.resize_inputs(2)
        node.replace_input_with(1, axes)


def _check_lowered(model: ir.Model, old: int, version: int) -> None:
    """A newer model can be declared older where every operator and attribute was already there."""
    for node in model.graph:
        if node.domain not in ("", "ai.onnx"):
            continue
        try:
            schema = onnx.defs.get_schema(node.op_type, version)
        except onnx.defs.SchemaError as error:
            raise unsupported(
                f"The {describe(node)} of opset {old} does not exist at opset {version}",
                f"Keep the model at opset {old}.",
            ) from error
        newer = sorted(set(node.attributes) - set(schema.attributes))
        inputs = max((index + 1 for index, value in enumerate(node.inputs) if value is not None), default=0)
        if newer or inputs > schema.max_input or version < _CHANGED.get(node.op_type, 0) <= old:
            raise unsupported(
                f"The {describe(node)} of opset {old} has no equal at opset {version}",
                f"Keep the model at opset {old}.",
            )
