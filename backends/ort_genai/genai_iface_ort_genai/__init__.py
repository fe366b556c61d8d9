# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime GenAI, which owns its loop, behind the interface's generators."""

# ruff: noqa: E402 - the switch must come before onnxruntime_genai

from genai_iface.backend_kit import switch_off_telemetry

switch_off_telemetry()

from genai_iface_ort_genai.backend import OrtGenAIBackend
from genai_iface_ort_genai.generator import OrtGenAIGenerator

__all__ = ["OrtGenAIBackend", "OrtGenAIGenerator"]
