# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: what a traced step answers where a network asks for lengths, positions and complex numbers."""
