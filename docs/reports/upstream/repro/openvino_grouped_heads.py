# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO takes the heads of queries and keys for equally many where the graph leaves the number of query heads open.

Needs numpy, onnx, openvino. Run: python openvino_grouped_heads.py
"""

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

QUERY_HEADS, TOKENS, SIZE = 4, 3, 8


def attention(kv_heads, *, is_open):
    """One Attention of rank 4, (batch, heads, tokens, size), and its inputs."""
    heads = {"query": QUERY_HEADS, "key": kv_heads, "value": kv_heads}
    shapes = {name: ["batch", count, "tokens", SIZE] for name, count in heads.items()}
    if is_open:
        # As after a Reshape with a -1, which torch's exporter writes.
        shapes["query"][1] = "heads"
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", QUERY_HEADS, "tokens", SIZE])
    node = helper.make_node("Attention", list(heads), ["y"], is_causal=1)
    model = helper.make_model(
        helper.make_graph([node], "graph", inputs, [output]), opset_imports=[helper.make_opsetid("", 23)]
    )
    onnx.checker.check_model(model)
    draw = np.random.default_rng(0)
    sizes = {name: (1, count, TOKENS, SIZE) for name, count in heads.items()}
    return model, {name: draw.standard_normal(size).astype(np.float32) for name, size in sizes.items()}


def said(kv_heads, *, is_open):
    """The largest difference from onnx.reference, or the last line of OpenVINO's error."""
    model, feeds = attention(kv_heads, is_open=is_open)
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    try:
        core = openvino.Core()
        network = core.read_model(model.SerializeToString())
        got = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)[0]
    except RuntimeError as error:
        return [line for line in str(error).splitlines() if line.strip()][-1]
    return "right" if np.abs(got - expected).max() < 1e-5 else "wrong"


found = {(kv_heads, is_open): said(kv_heads, is_open=is_open) for kv_heads in (4, 2) for is_open in (False, True)}
for (kv_heads, is_open), result in found.items():
    print(f"{kv_heads} key heads, number of query heads {'open' if is_open else 'in the graph'}: {result}")
failed = {case for case, result in found.items() if result != "right"}
print("reproduced" if failed == {(2, True)} else "not reproduced")
