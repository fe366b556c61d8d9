# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One key head for four query heads (multi-query attention, as in Falcon): the export fails at opset 23.

Needs torch, onnx, onnxscript. Run: python export_failed.py
"""

import torch


class Attention(torch.nn.Module):
    """torch broadcasts the one head of key and value."""

    def forward(self, query, key):
        return torch.nn.functional.scaled_dot_product_attention(query, key, key)


inputs = (torch.randn(2, 4, 5, 16), torch.randn(2, 1, 5, 16))
print("torch:", tuple(Attention()(*inputs).shape))
failed = {}
for opset in (18, 23):
    try:
        torch.onnx.export(Attention(), inputs, dynamo=True, opset_version=opset, verbose=False)
        failed[opset] = False
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        print("opset", opset, "fails:", error)
        failed[opset] = True
print("reproduced" if failed == {18: False, 23: True} else "not reproduced")
