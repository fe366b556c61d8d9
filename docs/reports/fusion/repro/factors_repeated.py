# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Two rotations by the same angles: each fused RotaryEmbedding computes its own Cos and Sin.

Needs torch, onnx, onnxscript. Run: python factors_repeated.py
"""

from collections import Counter

import torch


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Rotary(torch.nn.Module):
    """Query and key of Transformers' Llama."""

    def forward(self, x, position_ids):
        angles = position_ids[:, :, None].float() * 10000.0 ** -(torch.arange(8) / 8)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        key = x[:, :2]
        return x * cos + rotate_half(x) * sin, key * cos + rotate_half(key) * sin


def export(model, *inputs, opset=23):
    names = [{0: "batch", 2: "sequence"}, {0: "batch", 1: "sequence"}][: len(inputs)]
    return torch.onnx.export(
        model.eval(), inputs, dynamo=True, opset_version=opset, dynamic_shapes=tuple(names), verbose=False
    )


program = export(Rotary(), torch.randn(2, 4, 5, 16), torch.arange(5).repeat(2, 1))
counts = Counter(node.op_type for node in program.model.graph)
print({name: counts[name] for name in ("RotaryEmbedding", "Cos", "Sin")})
print("reproduced" if counts["Cos"] == counts["RotaryEmbedding"] == 2 else "not reproduced")
