# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Builds a tiny checkpoint of every decoder that Transformers has: ``python -m tools.sweep_decoders``."""

from genai_iface.backend_kit import switch_off_telemetry

# Before any module here imports transformers.
switch_off_telemetry()
