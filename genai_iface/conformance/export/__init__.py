# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The kit's checks as data: programs of steps with expected tensors, to be replayed without Python."""

from genai_iface.conformance.export._write import PROGRAMS_SCHEMA, export_programs

__all__ = ["PROGRAMS_SCHEMA", "export_programs"]
