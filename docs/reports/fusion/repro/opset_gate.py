# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The default fusions of torch.onnx.export run at opset 23 and at no other, newer or not.

Needs torch, onnx, onnxscript. Run: python opset_gate.py
"""

from collections import Counter

import torch


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def count(opset):
    program = torch.onnx.export(Norm(), (torch.randn(2, 3, 16),), dynamo=True, opset_version=opset, verbose=False)
    return Counter(node.op_type for node in program.model.graph)


counts = {opset: count(opset)["RMSNormalization"] for opset in (23, 24, 25)}
print("RMSNormalization by opset:", counts)
print("reproduced" if counts == {23: 1, 24: 0, 25: 0} else "not reproduced")
