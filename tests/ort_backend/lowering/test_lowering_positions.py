# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Positions and lengths are recognized by what they compute, and nothing else is taken for them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai_iface.graph import derive_signature
from genai_iface_ort.lowering.positions import are_positions, are_valid_lengths, are_write_indices
from tests.models import ModelOptions, build_model

NODE = helper.make_node
CONSTANTS = {"zero": 0, "one": 1, "axis1": [1], "two": [2], "hundred": [100]}


def _value(*nodes):
    """The value "v" that these nodes compute inside the tiny model."""
    proto = build_model(ModelOptions(position_ids=True))
    for name, number in CONSTANTS.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(number, np.int64), name))
    prefix = [
        NODE("Shape", ["input_ids"], ["shape"]),
        NODE("Gather", ["shape", "one"], ["S"]),
        NODE("Range", ["zero", "S", "one"], ["steps"]),
        NODE("Unsqueeze", ["write_indices", "axis1"], ["column"]),
    ]
    tail = [NODE("Identity", ["v"], ["kept"])]
    for node in reversed([*prefix, *nodes, *tail]):
        proto.graph.node.insert(0, node)
    proto.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.INT64, None))
    model = ir.from_proto(proto)
    # The added output is none of the model's own; the signature is that of the model without it.
    kept = model.graph.outputs.pop()
    signature = derive_signature(model)
    model.graph.outputs.append(kept)
    (value,) = [out for node in model.graph for out in node.outputs if out.name == "v"]
    return model, signature, value


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([NODE("Add", ["column", "steps"], ["v"])], "positions"),
        ([NODE("Cast", ["position_ids"], ["v"], to=TensorProto.INT64)], "positions"),
        ([NODE("Add", ["steps", "column"], ["w"]), NODE("Identity", ["w"], ["v"])], "positions"),
        ([NODE("Add", ["write_indices", "S"], ["v"])], "lengths"),
        ([NODE("Identity", ["nonpad_kv_seqlen"], ["v"])], "lengths"),
        ([NODE("Sub", ["nonpad_kv_seqlen", "S"], ["v"])], "write"),
        ([NODE("Identity", ["write_indices"], ["v"])], "write"),
    ],
)
def test_what_agrees_is_recognized(nodes, what):
    model, signature, value = _value(*nodes)
    found = {
        "positions": are_positions(model, signature, value),
        "lengths": are_valid_lengths(model, signature, value),
        "write": are_write_indices(model, signature, value),
    }
    assert found == {name: name == what for name in found}


@pytest.mark.parametrize(
    "nodes",
    [
        pytest.param([NODE("Add", ["column", "steps"], ["w"]), NODE("Add", ["w", "two"], ["v"])], id="offset"),
        pytest.param([NODE("Mul", ["position_ids", "one"], ["v"])], id="an operator that is not looked through"),
        pytest.param([NODE("Clip", ["position_ids", "zero", "hundred"], ["v"])], id="a bound"),
        pytest.param([NODE("Unsqueeze", ["steps", "zero"], ["v"])], id="no past"),
        pytest.param([NODE("Add", ["input_ids", "position_ids"], ["v"])], id="ids added"),
        pytest.param([NODE("Slice", ["position_ids", "axis1", "hundred", "axis1"], ["v"])], id="a part"),
        pytest.param([NODE("Shape", ["past_key_values.0.key"], ["v"])], id="the buffer's shape"),
    ],
)
def test_what_differs_is_not(nodes):
    model, signature, value = _value(*nodes)
    checks = (are_positions, are_valid_lengths, are_write_indices)
    assert not any(check(model, signature, value) for check in checks)


def test_nothing_is_nothing():
    model, signature, _ = _value(NODE("Identity", ["write_indices"], ["v"]))
    assert not are_positions(model, signature, None)
