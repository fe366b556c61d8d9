# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of a graph, on ONNX IR."""

from genai_iface.transform.bnsh_cache import BnshCache
from genai_iface.transform.fuse_partial_rotary import FusePartialRotary
from genai_iface.transform.fuse_rms_norm import FuseRmsNorm
from genai_iface.transform.fuse_rotary import FuseRotary
from genai_iface.transform.gather_quantised import GatherQuantised
from genai_iface.transform.match_norm_types import MatchNormTypes
from genai_iface.transform.match_rotary_batch import MatchRotaryBatch
from genai_iface.transform.pack_projections import PackProjections
from genai_iface.transform.rewrite import GRAPH_ERRORS, Note, Rewrite
from genai_iface.transform.rotary_tables import RotaryTables
from genai_iface.transform.select_logits import LOGITS_POSITIONS, SelectLogits
from genai_iface.transform.separate_dequantisation import SeparateDequantisation
from genai_iface.transform.standard import StandardResult, apply_standard
from genai_iface.transform.symbolic_capacity import SymbolicCapacity

__all__ = [
    "GRAPH_ERRORS",
    "LOGITS_POSITIONS",
    "BnshCache",
    "FusePartialRotary",
    "FuseRmsNorm",
    "FuseRotary",
    "GatherQuantised",
    "MatchNormTypes",
    "MatchRotaryBatch",
    "Note",
    "PackProjections",
    "Rewrite",
    "RotaryTables",
    "SelectLogits",
    "SeparateDequantisation",
    "StandardResult",
    "SymbolicCapacity",
    "apply_standard",
]
