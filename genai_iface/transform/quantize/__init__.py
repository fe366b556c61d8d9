# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Weights and caches as integers."""

from genai_iface.transform.quantize._cache import CacheRange, KVScales, QuantizeCache
from genai_iface.transform.quantize._folder import QuantizeReport, quantize_folder
from genai_iface.transform.quantize._moments import measure_moments
from genai_iface.transform.quantize._source import MatrixReport
from genai_iface.transform.quantize._weights import QuantizeWeights
from genai_iface.transform.quantize.calibration import (
    calibrate,
    default_text,
    english_text,
    random_tokens,
    windows_of,
)

__all__ = [
    "CacheRange",
    "KVScales",
    "MatrixReport",
    "QuantizeCache",
    "QuantizeReport",
    "QuantizeWeights",
    "calibrate",
    "default_text",
    "english_text",
    "measure_moments",
    "quantize_folder",
    "random_tokens",
    "windows_of",
]
