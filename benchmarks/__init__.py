# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: one command each, one JSON line per measurement."""

from genai_iface.backend_kit import switch_off_telemetry

# Before any module here imports onnxruntime or transformers.
switch_off_telemetry()
