# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the checks of level 4."""

MODULES = ("generator", "stop", "stream", "processors", "sampling", "pipeline", "tokenizer", "runtime", "states")
"""In the order in which reports show their checks."""
