# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model that comes with the package, so that the first command needs no download."""

from pathlib import Path

__all__ = ["EMBEDDED", "default_folder"]

EMBEDDED = "onnx-prose"
"""What names the embedded model wherever a model is named, unless there is a file or folder of that name."""


def default_folder() -> Path:
    """The folder of the embedded model."""
    return Path(__file__).parent / EMBEDDED
