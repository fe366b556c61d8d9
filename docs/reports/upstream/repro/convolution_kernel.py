# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's kernel of CausalConvWithState is slower on a prompt than the operator's own expansion.

Needs onnx, onnxruntime. Run: ORT_DISABLE_TELEMETRY=1 python convolution_kernel.py
"""

import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

CHANNELS, COLUMNS, KERNEL = 1024, 512, 3


def session(domain, version):
    node = helper.make_node("CausalConvWithState", ["x", "w", "", "past"], ["y", "present"], domain=domain)
    sizes = {"x": [1, CHANNELS, COLUMNS], "w": [CHANNELS, 1, KERNEL], "past": [1, CHANNELS, KERNEL - 1]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "present")]
    imports = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], "graph", inputs, outputs), opset_imports=imports)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


random = np.random.default_rng(0)
feeds = {
    "x": random.standard_normal((1, CHANNELS, COLUMNS)).astype(np.float32),
    "w": random.standard_normal((CHANNELS, 1, KERNEL)).astype(np.float32),
    "past": np.zeros((1, CHANNELS, KERNEL - 1), np.float32),
}
sessions = {"contrib kernel": session("com.microsoft", 24), "expansion": session("", 27)}
times = {name: [] for name in sessions}
results = {}
for _ in range(40):
    for name, one in sessions.items():
        begin = time.perf_counter()
        results[name] = one.run(None, feeds)
        times[name].append(time.perf_counter() - begin)
print("same numbers:", all(np.allclose(a, b, atol=1e-5) for a, b in zip(*results.values(), strict=True)))
ratio = min(times["contrib kernel"]) / min(times["expansion"])
print(f"contrib kernel over expansion: {ratio:.1f}")
print("reproduced" if ratio > 1.2 else "not reproduced")
