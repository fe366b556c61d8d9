# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing leaves the machine: the libraries below report on their users unless they are told not to.

They look when they are loaded; what is said to them later comes too late. So whoever is about to import one of them
calls ``switch_off_telemetry`` first.
"""

from __future__ import annotations

import os
import sys

__all__ = ["switch_off_telemetry"]

_SWITCHES = {
    # Since 1.32 ONNX Runtime and ONNX Runtime GenAI report on Linux too, seconds after the import.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, and Transformers by way of it.
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def switch_off_telemetry() -> None:
    """Sets what the user has not set otherwise, for this process and those that it starts; safe to call again.

    The variables ``ORT_DISABLE_TELEMETRY`` and ``HF_HUB_DISABLE_TELEMETRY`` keep the values that they have.
    ``openvino_telemetry`` has no variable, and reports that OpenVINO was imported; unless it is imported already it
    cannot be from now on, which OpenVINO takes as "not installed".
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
