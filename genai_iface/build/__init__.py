# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Model folders from checkpoints, and reports on exporters; needs the extra "build". Import its modules by name."""

from genai_iface.privacy import switch_off_telemetry

# Before any module here imports onnxruntime or transformers.
switch_off_telemetry()
