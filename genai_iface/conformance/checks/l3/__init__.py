# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the checks of level 3."""

MODULES = ("golden", "fresh", "metamorphic", "states")
"""In the order in which reports show their checks."""
