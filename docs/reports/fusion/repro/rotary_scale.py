# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""cos and sin times a constant (yarn and longrope scale them): no RotaryEmbedding.

Needs torch, onnx, onnxscript. Run: python rotary_scale.py
"""

from collections import Counter

import torch


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Rotary(torch.nn.Module):
    """Rotation as in Transformers' Llama with yarn."""

    def forward(self, x, position_ids):
        frequencies = 10000.0 ** -(torch.arange(8) / 8)
        angles = position_ids[:, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos() * 1.1386, angles.sin() * 1.1386
        return x * cos.unsqueeze(1) + rotate_half(x) * sin.unsqueeze(1)


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
