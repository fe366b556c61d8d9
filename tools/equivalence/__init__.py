# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Whether all tools agree, family by family: ``python -m tools.equivalence``."""

from genai_iface.backend_kit import switch_off_telemetry

# Before any module here imports transformers or a runtime.
switch_off_telemetry()
