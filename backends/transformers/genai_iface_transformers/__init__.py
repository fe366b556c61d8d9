# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A backend over Transformers and torch, without any ONNX: the independent oracle of the others."""

# ruff: noqa: E402 - the switch must come before transformers

from genai_iface.backend_kit import switch_off_telemetry

switch_off_telemetry()

from genai_iface_transformers.backend import TransformersBackend

__all__ = ["TransformersBackend"]
