# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Opset 26 is asked for; the model declares 18 and holds Attention, which came with opset 23.

Needs torch, onnx, onnxscript. Run: python opset_not_reached.py
"""

from collections import Counter

import torch


class Attention(torch.nn.Module):
    """One attention."""

    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


program = torch.onnx.export(Attention(), (torch.randn(2, 4, 5, 16),), dynamo=True, opset_version=26, verbose=False)
print(dict(Counter(node.op_type for node in program.model.graph)), program.model.opset_imports)
print("reproduced" if program.model.opset_imports[""] != 26 else "not reproduced")
