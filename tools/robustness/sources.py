# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The folders that cases start from: tiny, and between them every cache style, weight form and file."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.models import write_folder

__all__ = ["ONNX_SOURCES", "TEXT_FILES", "write_sources"]

TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_OPTIONS: dict[str, dict[str, object]] = {
    "scatter": {"external_data": True},
    "scatter-bsh-mask": {"layout": "bsh", "attention_mask": True, "position_ids": True},
    "circular": {"mode": "circular", "capacity": 8},
    "concat": {"style": "concat", "quantize": "int8"},
    "concat-nodes": {"style": "concat_nodes", "quantize": "int4", "tied": True},
    "decomposed": {"style": "decomposed", "positions": "learned"},
    "shared": {"style": "shared"},
    "float16": {"dtype": "float16"},
}
ONNX_SOURCES = (*_OPTIONS, "functions", "branches")


def write_sources(root: Path) -> dict[str, Path]:
    """Writes every source below a folder and returns them by name."""
    folders = {name: write_folder(root / name, layers=1, **options) for name, options in _OPTIONS.items()}
    for name, change in (("functions", _with_functions), ("branches", _with_branches)):
        folders[name] = write_folder(root / name, layers=1)
        path = folders[name] / "model.onnx"
        model = onnx.load(path)
        change(model)
        path.write_bytes(model.SerializeToString())
    return folders


def _with_functions(model: onnx.ModelProto) -> None:
    """The products go through a local function that calls another one."""
    opsets = [helper.make_opsetid("", model.opset_import[0].version), helper.make_opsetid("local", 1)]
    inner = helper.make_function(
        "local", "Inner", ["a", "b"], ["c"], [helper.make_node("MatMul", ["a", "b"], ["c"])], opsets
    )
    call = helper.make_node("Inner", ["x", "w"], ["y"], domain="local")
    outer = helper.make_function("local", "Outer", ["x", "w"], ["y"], [call], opsets)
    model.functions.extend([inner, outer])
    model.opset_import.append(helper.make_opsetid("local", 1))
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.op_type, node.domain = "Outer", "local"


def _with_branches(model: onnx.ModelProto) -> None:
    """The logits go through an If."""
    graph = model.graph
    logits = next(value.name for value in graph.output if value.name == "logits")
    maker = next(node for node in graph.node if logits in node.output)
    maker.output[list(maker.output).index(logits)] = "before"
    branches = []
    for name in ("then", "else"):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        branches.append(helper.make_graph([helper.make_node("Identity", ["before"], [name])], name, [], [value]))
    graph.initializer.append(helper.make_tensor("condition", TensorProto.BOOL, [], [True]))
    graph.node.append(helper.make_node("If", ["condition"], [logits], then_branch=branches[0], else_branch=branches[1]))
