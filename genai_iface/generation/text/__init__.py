# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: prompts in, text out: tokens to text while they come, stop strings, chunks."""
