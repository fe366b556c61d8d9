# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Only the first half of the head is rotated, as in GPT-NeoX, Phi, StableLM: the rule for it isn't called.

Needs torch, onnx, onnxscript. Run: python partial_rotary.py
"""

from collections import Counter

import torch
from onnxscript.rewriter.rules.fusion._rotary_embedding import fuse_partial_rotary_embedding


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Rotary(torch.nn.Module):
    """Partial rotation as in Transformers' GPT-NeoX."""

    def forward(self, x, position_ids):
        angles = position_ids[:, :, None].float() * 10000.0 ** -(torch.arange(4) / 4)
        angles = torch.cat((angles, angles), dim=-1)
        part, rest = x[..., :8], x[..., 8:]
        part = part * angles.cos().unsqueeze(1) + rotate_half(part) * angles.sin().unsqueeze(1)
        return torch.cat((part, rest), dim=-1)


def export(model, *inputs, opset=23):
    names = [{0: "batch", 2: "sequence"}, {0: "batch", 1: "sequence"}][: len(inputs)]
    return torch.onnx.export(
        model.eval(), inputs, dynamo=True, opset_version=opset, dynamic_shapes=tuple(names), verbose=False
    )


program = export(Rotary(), torch.randn(2, 4, 5, 16), torch.arange(5).repeat(2, 1))
counts = Counter(node.op_type for node in program.model.graph)
print("exported:", {name: counts[name] for name in ("RotaryEmbedding", "Slice", "Concat")})
fused = fuse_partial_rotary_embedding(program.model)
print("fuse_partial_rotary_embedding called by hand fuses", fused)
print("reproduced" if counts["Slice"] and fused == 1 else "not reproduced")
