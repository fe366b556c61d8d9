# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The reference backend: generative ONNX models on NumPy and onnx.reference."""

from genai_iface_numpy.backend import NumpyBackend
from genai_iface_numpy.cache import NumpyCache
from genai_iface_numpy.model import NumpyModel

__all__ = ["NumpyBackend", "NumpyCache", "NumpyModel"]
