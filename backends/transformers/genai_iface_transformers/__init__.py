# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A backend over Transformers and torch, without any ONNX: the independent oracle of the others."""

from genai_iface_transformers.backend import TransformersBackend

__all__ = ["TransformersBackend"]
