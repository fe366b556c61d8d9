# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A LayerNorm written with mean and rsqrt, as in Cohere: fused by half, into Sub and RMSNormalization.

Needs torch, onnx, onnxscript. Run: python layer_norm.py
"""

from collections import Counter

import torch


class Norm(torch.nn.Module):
    """As in Transformers' Cohere."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16))

    def forward(self, x):
        difference = x - x.mean(-1, keepdim=True)
        return self.weight * (difference * torch.rsqrt(difference.pow(2).mean(-1, keepdim=True) + 1e-5))


program = torch.onnx.export(Norm(), (torch.randn(2, 3, 16),), dynamo=True, opset_version=23, verbose=False)
counts = Counter(node.op_type for node in program.model.graph)
print(dict(counts))
print("reproduced" if counts["RMSNormalization"] and not counts["LayerNormalization"] else "not reproduced")
