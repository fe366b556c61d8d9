# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of a loaded graph, on ONNX IR. Subpackages write new folders: ``fuse``, ``convert``, ``quantize``."""

from genai_iface.transform.bnsh_cache import BnshCache
from genai_iface.transform.gather_elements import GatherElements
from genai_iface.transform.gather_quantized import GatherQuantized
from genai_iface.transform.pack_projections import PackProjections
from genai_iface.transform.rewrite import Note, Rewrite
from genai_iface.transform.select_logits import LOGITS_POSITIONS, SelectLogits
from genai_iface.transform.separate_dequantization import SeparateDequantization
from genai_iface.transform.standard import StandardResult, apply_standard
from genai_iface.transform.symbolic_capacity import SymbolicCapacity

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
    "SymbolicCapacity",
    "apply_standard",
]
