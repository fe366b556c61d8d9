# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""cos and sin cast to float16, as every float16 model of Transformers does: no RotaryEmbedding.

Needs torch, onnx, onnxscript. Run: python rotary_cast.py
"""

from collections import Counter

import torch


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Rotary(torch.nn.Module):
    """Rotation as in Transformers' Llama."""

    def forward(self, x, position_ids):
        frequencies = 10000.0 ** -(torch.arange(8) / 8)
        angles = position_ids[:, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos().to(x.dtype).unsqueeze(1), angles.sin().to(x.dtype).unsqueeze(1)
        return x * cos + rotate_half(x) * sin


def export(model, *inputs, opset=23):
    names = [{0: "batch", 2: "sequence"}, {0: "batch", 1: "sequence"}][: len(inputs)]
    return torch.onnx.export(
        model.eval(), inputs, dynamo=True, opset_version=opset, dynamic_shapes=tuple(names), verbose=False
    )


x = torch.randn(2, 4, 5, 16, dtype=torch.float16)
position_ids = torch.arange(5).repeat(2, 1)
counts = Counter(node.op_type for node in export(Rotary(), x, position_ids).model.graph)
print({name: counts[name] for name in ("RotaryEmbedding", "Cos", "Sin", "Mul", "Cast")})
print("reproduced" if counts["RotaryEmbedding"] == 0 else "not reproduced")
