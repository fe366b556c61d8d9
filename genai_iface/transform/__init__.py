# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of a loaded graph, on ONNX IR. Subpackages write new folders: ``fuse``, ``convert``, ``quantize``."""

import importlib
from typing import TYPE_CHECKING

from genai_iface.transform.bnsh_cache import BnshCache
from genai_iface.transform.gather_elements import GatherElements
from genai_iface.transform.gather_quantized import GatherQuantized
from genai_iface.transform.pack_projections import PackProjections
from genai_iface.transform.rewrite import Note, Rewrite
from genai_iface.transform.select_logits import LOGITS_POSITIONS, SelectLogits
from genai_iface.transform.separate_dequantization import SeparateDequantization
from genai_iface.transform.standard import StandardResult, apply_standard
from genai_iface.transform.symbolic_capacity import SymbolicCapacity

if TYPE_CHECKING:
    from genai_iface.transform.contrib.standardize import Standardized, standardize

__all__ = [
    "LOGITS_POSITIONS",
    "BnshCache",
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
    # Only graphs with contrib operators need it.
    if name in ("Standardized", "standardize"):
        return getattr(importlib.import_module("genai_iface.transform.contrib.standardize"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
