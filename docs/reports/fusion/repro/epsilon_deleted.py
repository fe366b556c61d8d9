# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""x + 1e-8 is deleted: a constant within 1e-8 of 0 counts as 0 (Helium's norm has this epsilon).

Needs torch, onnx, onnxscript, onnxruntime. Run: python epsilon_deleted.py
"""

from collections import Counter

import torch


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-8))


x = torch.zeros(1, 1, 16)
program = torch.onnx.export(Norm(), (x,), dynamo=True, opset_version=23, input_names=["x"], verbose=False)
counts = Counter(node.op_type for node in program.model.graph)
print(dict(counts))
print("torch, on zeros:", Norm()(x).abs().max().item())
print("exported, on zeros:", program(x)[0].abs().max().item())
print("reproduced" if not counts["Add"] and not counts["RMSNormalization"] else "not reproduced")
