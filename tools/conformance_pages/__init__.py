# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Writes the conformance pages of the documentation: ``python -m tools.conformance_pages [--run NAME ...]``."""
