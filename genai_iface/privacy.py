# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing leaves the machine: the libraries below report on their users unless they are told not to.

They look at these variables when they are loaded; what is said to them later comes too late. So whoever is about to
import one of them calls ``switch_off_telemetry`` first.
"""

from __future__ import annotations

import os

__all__ = ["switch_off_telemetry"]

_SWITCHES = {
    # Since 1.32 ONNX Runtime and ONNX Runtime GenAI report on Linux too, seconds after the import.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, and Transformers by way of it.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def switch_off_telemetry() -> None:
    """Sets the variables that the user has not set; a second call does nothing."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
