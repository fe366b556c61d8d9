# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""No operator that keeps a state is told how many tokens of a row are real.

Needs onnx. Run: ORT_DISABLE_TELEMETRY=1 python state_lengths.py
"""

import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def run(operator, feeds, **attributes):
    node = helper.make_node(operator, list(feeds), ["output", "present_state"], **attributes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    graph = helper.make_graph([node], "graph", inputs, outputs)
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 27)])).run(None, feeds)


# A batch of one prompt with 3 tokens, padded to 5 as beside a longer one, against the prompt alone.
random = np.random.default_rng(0)
real, width, channels, heads, dim = 3, 5, 6, 2, 4
names = ("query", "key", "value")
packed = {name: random.standard_normal((1, width, heads * dim)).astype(np.float32) for name in names}
columns = random.standard_normal((1, channels, width)).astype(np.float32)
kernel = random.standard_normal((channels, 1, 3)).astype(np.float32)
rule = {"update_rule": "linear", "q_num_heads": heads, "kv_num_heads": heads}
pairs = {
    "LinearAttention": (
        run("LinearAttention", packed, **rule),
        run("LinearAttention", {name: array[:, :real] for name, array in packed.items()}, **rule),
    ),
    "CausalConvWithState": (
        run("CausalConvWithState", {"input": columns, "weight": kernel}),
        run("CausalConvWithState", {"input": columns[:, :, :real], "weight": kernel}),
    ),
}
wrong = 0
for name, ((_, padded), (_, alone)) in pairs.items():
    difference = float(abs(padded - alone).max())
    wrong += difference > 0.1
    print(f"{name}: the state after a padded step is off by {difference:.2f}")
print("reproduced" if wrong == len(pairs) else "not reproduced")
