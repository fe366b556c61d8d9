# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The cache tensors of a graph: their layout, their capacity, and who reads their shapes."""

from genai_iface.transform.cache.bnsh_cache import BnshCache
from genai_iface.transform.cache.cache_shapes import CacheShapes
from genai_iface.transform.cache.symbolic_capacity import SymbolicCapacity

__all__ = ["BnshCache", "CacheShapes", "SymbolicCapacity"]
