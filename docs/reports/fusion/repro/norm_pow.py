# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""torch.pow(x, -0.5) instead of rsqrt, as in Gemma 4: no RMSNormalization.

Needs torch, onnx, onnxscript. Run: python norm_pow.py
"""

from collections import Counter

import torch


class Norm(torch.nn.Module):
    """As in Transformers' Gemma 4."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16))

    def forward(self, x):
        return x * torch.pow(x.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5) * self.weight


program = torch.onnx.export(Norm(), (torch.randn(2, 3, 16),), dynamo=True, opset_version=23, verbose=False)
counts = Counter(node.op_type for node in program.model.graph)
print(dict(counts))
print("reproduced" if not counts["RMSNormalization"] else "not reproduced")
