# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""SymbolicCapacity: any capacity where the graph named one, unless something depends on the number."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from genai_iface.graph import derive_signature
from genai_iface.transform import SymbolicCapacity
from tests.models import ModelOptions, build_model
from tests.transform.convert.drive import Drive, load, on_reference, same_steps

FAMILIES = {
    "llama": {},
    "rank 3": {"layout": "bsh"},
    "position input": {"position_ids": True},
    "learned positions": {"positions": "learned"},
    "int8": {"quantize": "int8"},
    "own value size": {"v_head_dim": 16},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_takes_another_capacity(family):
    options = ModelOptions(capacity=40, **FAMILIES[family])
    before, signature = load(build_model(options))
    model, _ = load(build_model(options))
    rewrite = SymbolicCapacity(signature)
    rewrite(model)
    assert rewrite.note.count == 4, rewrite.note
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = derive_signature(model)
    assert after.cache.fixed_capacity is None
    fixed = Drive(on_reference(before), signature, batch_size=3, capacity=40)
    for capacity in (24, 57):
        assert same_steps(fixed, Drive(on_reference(model), after, batch_size=3, capacity=capacity)) < 1e-5
        fixed = Drive(on_reference(before), signature, batch_size=3, capacity=40)


def test_circular_layers_keep_their_window():
    options = ModelOptions(mode=["circular", "linear"], capacity=[8, 40])
    model, signature = load(build_model(options))
    rewrite = SymbolicCapacity(signature)
    rewrite(model)
    assert rewrite.note.count == 2
    assert [layer.capacity for layer in derive_signature(model).cache.layers] == [8, None]


@pytest.mark.parametrize(("style", "reason"), [("scatter", "fixes no"), ("concat", "not fixed")])
def test_nothing_to_do(style, reason):
    model, signature = load(build_model(ModelOptions(style=style)))
    rewrite = SymbolicCapacity(signature)
    rewrite(model)
    assert not rewrite.note.applied
    assert reason in rewrite.note.reason


def _depending(kind):
    proto = build_model(ModelOptions(capacity=40))
    attention = next(node for node in proto.graph.node if node.op_type == "Attention")
    if kind == "mask of that length":
        proto.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 1, 40), np.float32), "mask"))
        attention.input[3] = "mask"
    elif kind == "length in a constant":
        nodes = [
            helper.make_node("ConstantOfShape", ["forty"], ["row"]),
            helper.make_node("Unsqueeze", ["row", "axes"], ["mask"]),
        ]
        for node in reversed(nodes):
            proto.graph.node.insert(0, node)
        for name, values in (("forty", [40]), ("axes", [0, 1, 2])):
            proto.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        attention.input[3] = "mask"
    else:
        proto.graph.node.append(helper.make_node("ReduceMean", [attention.input[1]], ["mean"], keepdims=0))
        proto.graph.node.append(helper.make_node("Add", ["logits_0", "mean"], ["logits"]))
        for node in proto.graph.node:
            if node.output[0] == "logits" and node.op_type == "Identity":
                node.output[0] = "logits_0"
    return proto


@pytest.mark.parametrize("kind", ["mask of that length", "length in a constant", "mean over the buffer"])
def test_a_graph_that_depends_on_the_number_is_left_alone(kind):
    model, signature = load(_depending(kind))
    rewrite = SymbolicCapacity(signature)
    rewrite(model)
    assert not rewrite.note.applied, kind
    past = next(value for value in model.graph.inputs if value.name == signature.cache_tensors[0].past)
    assert past.shape[2] == 40
