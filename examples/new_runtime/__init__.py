# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A new runtime behind the interface: the code of the tutorial docs/new-runtime.md."""

from genai_iface.backend_kit import switch_off_telemetry

# Importing openvino reports it otherwise.
switch_off_telemetry()
