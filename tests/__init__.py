# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The tests."""

from genai_iface.backend_kit import switch_off_telemetry

# They import runtimes themselves.
switch_off_telemetry()
