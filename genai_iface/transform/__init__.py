# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of a graph, on ONNX IR."""

from genai_iface.transform.bnsh_cache import BnshCache
from genai_iface.transform.convert.gather_elements import GatherElements
from genai_iface.transform.fuse.match_norm_types import MatchNormTypes
from genai_iface.transform.fuse.match_rotary_batch import MatchRotaryBatch
from genai_iface.transform.fuse.pack_projections import PackProjections
from genai_iface.transform.fuse.partial_rotary import FusePartialRotary
from genai_iface.transform.fuse.rms_norm import FuseRmsNorm
from genai_iface.transform.fuse.rotary import FuseRotary
from genai_iface.transform.quantize.gather_quantized import GatherQuantized
from genai_iface.transform.quantize.separate_dequantization import SeparateDequantization
from genai_iface.transform.rewrite import Note, Rewrite
from genai_iface.transform.rotary_tables import RotaryTables
from genai_iface.transform.select_logits import LOGITS_POSITIONS, SelectLogits
from genai_iface.transform.standard import StandardResult, apply_standard
from genai_iface.transform.standardize.standard_model import Standardized, standardize
from genai_iface.transform.symbolic_capacity import SymbolicCapacity

__all__ = [
    "LOGITS_POSITIONS",
    "BnshCache",
    "FusePartialRotary",
    "FuseRmsNorm",
    "FuseRotary",
    "GatherElements",
    "GatherQuantized",
    "MatchNormTypes",
    "MatchRotaryBatch",
    "Note",
    "PackProjections",
    "Rewrite",
    "RotaryTables",
    "SelectLogits",
    "SeparateDequantization",
    "StandardResult",
    "Standardized",
    "SymbolicCapacity",
    "apply_standard",
    "standardize",
]
