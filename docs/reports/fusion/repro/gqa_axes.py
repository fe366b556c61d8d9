# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""fuse_gqa never fires: a scalar axis of Unsqueeze is expected, and one spelling of a symbolic sum.

Needs torch, onnx, onnxscript. Run: python gqa_axes.py
"""

from collections import Counter

import torch
from onnxscript.rewriter._basics import MatchingTracer
from onnxscript.rewriter.rules.fusion._gqa import fuse_gqa, gqa_rules


class GroupedAttention(torch.nn.Module):
    """Keys and values appended to a cache, then repeated for the groups, as Transformers does."""

    def forward(self, query, key, value, past_key, past_value):
        key, value = torch.cat((past_key, key), dim=-2), torch.cat((past_value, value), dim=-2)
        many = [each[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for each in (key, value)]
        return torch.nn.functional.scaled_dot_product_attention(query, *many), key, value


new, past = {0: "batch", 2: "sequence"}, {0: "batch", 2: "past"}
inputs = (torch.randn(2, 4, 3, 16), *(torch.randn(2, 2, size, 16) for size in (3, 3, 5, 5)))
program = torch.onnx.export(
    GroupedAttention(),
    inputs,
    dynamo=True,
    opset_version=23,
    dynamic_shapes=(new, new, new, past, past),
    verbose=False,
)
print(dict(Counter(node.op_type for node in program.model.graph)))
fused, tracer = fuse_gqa(program.model), MatchingTracer()
gqa_rules.apply_to_model(program.model, tracer=tracer)
reasons = {info.match_result.reason for infos in tracer.best_matches_map.values() for info in infos}
print("fuse_gqa fuses", fused, "because:", reasons)
print("reproduced" if not fused and any("not a scalar" in reason for reason in reasons) else "not reproduced")
