# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the decoders of the golden models in float64, and fresh models of the same shapes from a seed."""
