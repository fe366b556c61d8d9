# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO GenAI, which owns its loop, behind the interface's generators."""

# ruff: noqa: E402 - the switch must come before openvino

from genai_iface.backend_kit import switch_off_telemetry

switch_off_telemetry()

from genai_iface_openvino_genai.backend import OpenVINOGenAIBackend
from genai_iface_openvino_genai.generator import OpenVINOGenAIGenerator

__all__ = ["OpenVINOGenAIBackend", "OpenVINOGenAIGenerator"]
