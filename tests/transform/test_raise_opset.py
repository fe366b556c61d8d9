# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Another opset, the same results; what would change is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from genai_iface.errors import UnsupportedModelError
from genai_iface.transform._raise_opset import raise_opset


def model(nodes: list[onnx.NodeProto], opset: int) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b"]) for name in "xy")
    graph = helper.make_graph(nodes, "test", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_axes_and_parts_take_their_new_form() -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=-1),
        helper.make_node("ReduceMean", ["a"], ["mean"], axes=[-1], keepdims=1),
        helper.make_node("ReduceMax", ["b"], ["top"], axes=[0, 1], keepdims=1),
        helper.make_node("Add", ["mean", "top"], ["y"]),
    ]
    before = model(nodes, 17)
    after = ir.from_proto(before)
    raise_opset(after, 24)
    proto = ir.to_proto(after)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == 24
    # Without it Split has needed the sizes of its parts since opset 18.
    assert [item.i for item in proto.graph.node[0].attribute if item.name == "num_outputs"] == [2]
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    (wanted,), (got,) = (ReferenceEvaluator(graph).run(None, {"x": x}) for graph in (before, proto))
    assert np.array_equal(wanted, got)


def test_an_operator_that_changed_is_refused() -> None:
    nodes = [helper.make_node("GroupNormalization", ["x", "x", "x"], ["y"], num_groups=1)]
    with pytest.raises(UnsupportedModelError, match=r"GroupNormalization .*means something else from opset 21"):
        raise_opset(ir.from_proto(model(nodes, 18)), 24)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Swish", ["x"], ["y"]), "Swish .*of opset 24 does not exist at opset 23"),
        (helper.make_node("Attention", ["x", "x", "x", "", "", "", "x"], ["y"]), "Attention .*no equal at opset 23"),
    ],
)
def test_a_newer_operator_cannot_be_declared_older(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        raise_opset(ir.from_proto(model([node], 24)), 23)


def test_an_older_opset_where_nothing_is_newer() -> None:
    lowered = ir.from_proto(model([helper.make_node("Relu", ["x"], ["y"])], 24))
    raise_opset(lowered, 18)
    assert lowered.opset_imports[""] == 18
