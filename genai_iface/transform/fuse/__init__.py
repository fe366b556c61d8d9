# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Standard operators for what exporters have written out."""

from genai_iface.transform.fuse.match_norm_types import MatchNormTypes
from genai_iface.transform.fuse.match_rotary_batch import MatchRotaryBatch
from genai_iface.transform.fuse.partial_rotary import FusePartialRotary
from genai_iface.transform.fuse.rms_norm import FuseRmsNorm
from genai_iface.transform.fuse.rotary import FuseRotary
from genai_iface.transform.fuse.rotary_tables import RotaryTables

__all__ = [
    "FusePartialRotary",
    "FuseRmsNorm",
    "FuseRotary",
    "MatchNormTypes",
    "MatchRotaryBatch",
    "RotaryTables",
]
