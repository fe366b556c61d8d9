# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime runs Attention as a kernel at opset 23 and 24, and as some eighty nodes from 25 on.

Needs onnx, onnxruntime. Run: ORT_DISABLE_TELEMETRY=1 python attention_expanded.py
"""

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
from onnx import TensorProto, helper

WIDTHS = {"query": 32, "key": 16, "value": 16}


def nodes_that_run(version):
    """The operators of the graph as ONNX Runtime optimized it."""
    node = helper.make_node("Attention", list(WIDTHS), ["y"], q_num_heads=4, kv_num_heads=2, is_causal=1)
    *inputs, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "S", width])
        for name, width in {**WIDTHS, "y": WIDTHS["query"]}.items()
    )
    model = helper.make_model(
        helper.make_graph([node], "graph", inputs, [output]), opset_imports=[helper.make_opsetid("", version)]
    )
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return Counter(item.op_type for item in onnx.load(options.optimized_model_filepath).graph.node)


found = {version: nodes_that_run(version) for version in (23, 24, 25, 27)}
for version, counts in found.items():
    print(f"opset {version}: {sum(counts.values())} nodes, {counts['Attention']} of them Attention")
print("reproduced" if found[24]["Attention"] and not found[25]["Attention"] else "not reproduced")
