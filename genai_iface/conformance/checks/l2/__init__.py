# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: the checks of level 2."""

MODULES = (
    "write",
    "idle",
    "overflow",
    "rewind",
    "reorder",
    "reset",
    "cache",
    "optional",
    "circular",
    "states",
    "checkpoints",
    "walk",
)
"""In the order in which reports show their checks."""
