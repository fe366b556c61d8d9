# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph read: walking it, changing it, and the signature that says what drives it."""

from genai_iface.graph._edit import (
    Editor,
    constant_array,
    constant_tensor,
    copy_type,
    is_transpose,
    replace_value,
    same_dims,
)
from genai_iface.graph._inference import infer_shapes
from genai_iface.graph._walk import attribute, describe, input_at, is_op, output_at, rank, static_dim
from genai_iface.graph.derive import derive_signature
from genai_iface.graph.signature import CacheTensor, Evidence, GraphSignature, InputRole, StateTensor

__all__ = [
    "CacheTensor",
    "Editor",
    "Evidence",
    "GraphSignature",
    "InputRole",
    "StateTensor",
    "attribute",
    "constant_array",
    "constant_tensor",
    "copy_type",
    "derive_signature",
    "describe",
    "infer_shapes",
    "input_at",
    "is_op",
    "is_transpose",
    "output_at",
    "rank",
    "replace_value",
    "same_dims",
    "static_dim",
]
