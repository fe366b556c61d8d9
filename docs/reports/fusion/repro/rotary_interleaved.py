# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs next to each other, as in Cohere, GLM-4, GPT-J, Helium and ERNIE 4.5: no RotaryEmbedding(interleaved=1).

Needs torch, onnx, onnxscript. Run: python rotary_interleaved.py
"""

from collections import Counter

import torch


def rotate_pairs(x):
    return torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)


class Rotary(torch.nn.Module):
    """Rotation as in Transformers' Cohere."""

    def forward(self, x, position_ids):
        frequencies = 10000.0 ** -(torch.arange(8) / 8)
        angles = position_ids[:, :, None].float() * frequencies
        angles = torch.repeat_interleave(angles, 2, dim=-1)
        return x * angles.cos().unsqueeze(1) + rotate_pairs(x) * angles.sin().unsqueeze(1)


def export(model, *inputs, opset=23):
    names = [{0: "batch", 2: "sequence"}, {0: "batch", 1: "sequence"}][: len(inputs)]
    return torch.onnx.export(
        model.eval(), inputs, dynamo=True, opset_version=opset, dynamic_shapes=tuple(names), verbose=False
    )


x = torch.randn(2, 4, 5, 16)
position_ids = torch.arange(5).repeat(2, 1)
counts = Counter(node.op_type for node in export(Rotary(), x, position_ids).model.graph)
print({name: counts[name] for name in ("RotaryEmbedding", "Cos", "Sin", "Mul", "Cast")})
print("reproduced" if counts["RotaryEmbedding"] == 0 else "not reproduced")
