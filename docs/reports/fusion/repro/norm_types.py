# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A norm that multiplies with a float32 weight before it goes back to float16, as in Gemma and OLMo 2.

Needs torch, onnx, onnxscript, onnxruntime. Run: ORT_DISABLE_TELEMETRY=1 python norm_types.py
"""

from collections import Counter

import onnx
import onnxruntime
import torch


class Norm(torch.nn.Module):
    """As in Transformers' OLMo 2: the product is in float32."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16, dtype=torch.float16))

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight * wide).to(x.dtype)


x = torch.randn(2, 3, 16, dtype=torch.float16)
program = torch.onnx.export(Norm(), (x,), dynamo=True, opset_version=23, verbose=False)
print(dict(Counter(node.op_type for node in program.model.graph)))
for node in program.model.graph:
    if node.op_type == "RMSNormalization":
        print("input:", node.inputs[0].dtype, "weight:", node.inputs[1].dtype)
rejected = 0
try:
    onnx.checker.check_model(program.model_proto, full_check=True)
except onnx.shape_inference.InferenceError as error:
    print("checker:", error)
    rejected += 1
try:
    onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
except Exception as error:
    print("ONNX Runtime:", error)
    rejected += 1
print("reproduced" if rejected else "not reproduced")
