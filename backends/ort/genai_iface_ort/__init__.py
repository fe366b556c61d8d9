# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Generative ONNX models on ONNX Runtime, with the cache updated in place."""

# ruff: noqa: E402 - the switch must come before onnxruntime

from genai_iface.backend_kit import switch_off_telemetry

switch_off_telemetry()

from genai_iface_ort.backend import OrtBackend
from genai_iface_ort.cache import OrtCache
from genai_iface_ort.concat_cache import OrtConcatCache
from genai_iface_ort.model import OrtModel
from genai_iface_ort.steps.in_place import CacheCopyWarning

__all__ = ["CacheCopyWarning", "OrtBackend", "OrtCache", "OrtConcatCache", "OrtModel"]
