# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Outputs that a node leaves out, and inputs that a later one does, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper

from genai_iface_numpy.evaluator import Evaluator

_BATCH, _HEADS, _TOKENS, _CAPACITY, _SIZE = 2, 4, 3, 9, 8


def test_an_output_left_out_does_not_become_an_input_left_out() -> None:
    """The first Attention gives scores and no keys; the second has no mask."""
    shapes = {"q": [_BATCH, _HEADS, _TOKENS, _SIZE], "k": [_BATCH, 2, _CAPACITY, _SIZE]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    inputs.append(helper.make_tensor_value_info("n", TensorProto.INT64, [_BATCH]))
    nodes = [
        helper.make_node("Attention", ["q", "k", "k", "", "", "", "n"], ["x", "", "", "s"], qk_matmul_output_mode=2),
        helper.make_node("Attention", ["x", "k", "k", "", "", "", "n"], ["y"], is_causal=1),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "s")]
    model = helper.make_model(
        helper.make_graph(nodes, "two", inputs, outputs), opset_imports=[helper.make_opsetid("", 24)], ir_version=10
    )
    draw = np.random.default_rng(0)
    feeds = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    feeds["n"] = np.array([5, 8])
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(["y", "s"], feeds)
    got = Evaluator(ir.from_proto(model), keep=("y", "s")).run(feeds, ("y", "s"))
    np.testing.assert_allclose(got[0], expected[0], atol=1e-6)
    seen = np.isfinite(got[1])  # hidden scores are the lowest number there, and negative infinity here
    np.testing.assert_allclose(got[1][seen], expected[1][seen], atol=1e-6)
    assert (expected[1][~seen] < np.finfo(np.float32).min / 2).all()
