# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""LinearAttention-27 refuses the head counts of the models that it was added for.

Needs onnx, onnxruntime. Run: ORT_DISABLE_TELEMETRY=1 python linear_attention_heads.py
"""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

# Qwen3.5 in small: values and states of 4 heads, queries and keys of 2 (32 and 16 in the published model).
HEADS, NARROW, DIM, TOKENS = 4, 2, 8, 3
WIDTHS = {"query": NARROW * DIM, "key": NARROW * DIM, "value": HEADS * DIM}


def model(domain, version):
    counts = {"q_num_heads": NARROW, "kv_num_heads": HEADS}
    names = [*WIDTHS, "state"]
    node = helper.make_node("LinearAttention", names, ["y", "present"], domain=domain, update_rule="linear", **counts)
    shapes = {name: [1, TOKENS, width] for name, width in WIDTHS.items()} | {"state": [1, HEADS, DIM, DIM]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "present")]
    imports = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph([node], "graph", inputs, outputs), opset_imports=imports)


def on_onnxruntime(domain, version):
    content = model(domain, version).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


random = np.random.default_rng(0)
feeds = {name: random.standard_normal((1, TOKENS, width)).astype(np.float32) for name, width in WIDTHS.items()}
feeds["state"] = np.zeros((1, HEADS, DIM, DIM), np.float32)
refused = 0
for name, run in (
    ("onnx.reference", lambda: ReferenceEvaluator(model("", 27)).run(None, feeds)),
    ("ONNX Runtime", lambda: on_onnxruntime("", 27)),
):
    try:
        run()
        print(f"{name}: accepted")
    except Exception as error:
        print(f"{name}: {error}")
        refused += 1

# What the networks compute: each query and key head serves two value heads.
query, key, value = (feeds[name].reshape(TOKENS, -1, DIM) for name in WIDTHS)
state, expected = np.zeros((HEADS, DIM, DIM)), []
for token in range(TOKENS):
    wide_query, wide_key = (np.repeat(part[token], HEADS // NARROW, axis=0) for part in (query, key))
    state = state + wide_key[:, :, None] * value[token][:, None, :]
    expected.append((wide_query[:, :, None] * state).sum(1) / np.sqrt(DIM))
difference = abs(on_onnxruntime("com.microsoft", 24) - np.reshape(expected, (1, TOKENS, -1))).max()
print(f"com.microsoft: accepted, {difference:.0e} off the network")
print("reproduced" if refused == 2 and difference < 1e-5 else "not reproduced")
