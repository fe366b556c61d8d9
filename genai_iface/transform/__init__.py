# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of a loaded graph, on ONNX IR. Subpackages write new folders: ``fuse``, ``convert``, ``quantize``."""

import importlib
from typing import TYPE_CHECKING

from genai_iface.transform.gather_elements import GatherElements
from genai_iface.transform.rewrite import GRAPH_ERRORS, Note, Rewrite
from genai_iface.transform.select_logits import LOGITS_POSITIONS, SelectLogits

if TYPE_CHECKING:
    from genai_iface.transform.cache.bnsh_cache import BnshCache
    from genai_iface.transform.cache.cache_shapes import CacheShapes
    from genai_iface.transform.cache.symbolic_capacity import SymbolicCapacity
    from genai_iface.transform.contrib.standardize import Standardized, standardize
    from genai_iface.transform.gather_quantized import GatherQuantized
    from genai_iface.transform.pack_projections import PackProjections
    from genai_iface.transform.separate_dequantization import SeparateDequantization
    from genai_iface.transform.standard import StandardResult, apply_standard

# Loaded when they are used: a backend takes one or two of them, and few graphs have contrib operators.
_MODULES = {
    "BnshCache": "cache.bnsh_cache",
    "CacheShapes": "cache.cache_shapes",
    "GatherQuantized": "gather_quantized",
    "PackProjections": "pack_projections",
    "SeparateDequantization": "separate_dequantization",
    "StandardResult": "standard",
    "Standardized": "contrib.standardize",
    "SymbolicCapacity": "cache.symbolic_capacity",
    "apply_standard": "standard",
    "standardize": "contrib.standardize",
}

__all__ = [
    "GRAPH_ERRORS",
    "LOGITS_POSITIONS",
    "BnshCache",
    "CacheShapes",
    "GatherElements",
    "GatherQuantized",
    "Note",
    "PackProjections",
    "Rewrite",
    "SelectLogits",
    "SeparateDequantization",
    "StandardResult",
    "Standardized",
    "SymbolicCapacity",
    "apply_standard",
    "standardize",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"genai_iface.transform.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
