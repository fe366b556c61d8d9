# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Angles of one row (no position_ids input): the fused RotaryEmbedding fails on a second row.

Needs torch, onnx, onnxscript, onnxruntime. Run: ORT_DISABLE_TELEMETRY=1 python rotary_batch.py
"""

from collections import Counter

import numpy as np
import onnxruntime
import torch


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


class Rotary(torch.nn.Module):
    """Rotation as in Transformers' Llama that is called without position ids."""

    def forward(self, x):
        frequencies = 10000.0 ** -(torch.arange(8) / 8)
        angles = torch.arange(x.shape[2])[None, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return x * angles.cos().unsqueeze(1) + rotate_half(x) * angles.sin().unsqueeze(1)


program = torch.onnx.export(
    Rotary().eval(),
    (torch.randn(2, 4, 5, 16),),
    dynamo=True,
    opset_version=23,
    dynamic_shapes=({0: "batch", 2: "sequence"},),
    input_names=["x"],
    verbose=False,
)
print(Counter(node.op_type for node in program.model.graph)["RotaryEmbedding"], "RotaryEmbedding")
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
model = program.model_proto.SerializeToString()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
failed = {}
for rows in (1, 2):
    x = np.random.default_rng(0).standard_normal((rows, 4, 5, 16)).astype(np.float32)
    try:
        (y,) = session.run(None, {"x": x})
        print(rows, "rows: largest difference", np.abs(y - Rotary()(torch.from_numpy(x)).numpy()).max())
        failed[rows] = False
    except Exception as error:
        print(rows, "rows:", str(error)[:250])
        failed[rows] = True
print("reproduced" if failed == {1: False, 2: True} else "not reproduced")
