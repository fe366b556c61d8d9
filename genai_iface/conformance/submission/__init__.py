# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Results that others publish: a report with what it was made by and on, and what a reader can check of it."""

from genai_iface.conformance.submission._check import check_submission
from genai_iface.conformance.submission._write import write_submission

__all__ = ["check_submission", "write_submission"]
