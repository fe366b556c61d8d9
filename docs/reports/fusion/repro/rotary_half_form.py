# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Two halves rotated with factors of half the size, as in gpt-oss: no RotaryEmbedding.

Needs torch, onnx, onnxscript. Run: python rotary_half_form.py
"""

from collections import Counter

import torch


class Rotary(torch.nn.Module):
    """Rotation as in Transformers' gpt-oss."""

    def forward(self, x, position_ids):
        frequencies = 10000.0 ** -(torch.arange(8) / 8)
        angles = position_ids[:, :, None].float() * frequencies
        cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


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
