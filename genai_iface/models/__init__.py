# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The model that comes with the package, so that the first command needs no download."""

from pathlib import Path

__all__ = ["default_folder"]


def default_folder() -> Path:
    """The folder of the embedded model."""
    return Path(__file__).parent / "onnx-prose"
