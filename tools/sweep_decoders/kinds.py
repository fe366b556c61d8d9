# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The sorts of networks that the sweep tells apart, in the order of the report."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["KINDS"]

KINDS: Mapping[str, str] = {
    "decoder": "decoders of keys and values",
    "states": "decoders that keep states",
    "composite": "text decoders of networks with images or sounds",
    "encoder": "encoders used as decoders",
    "second half": "second halves of an encoder with a decoder",
    "unknown": "model types whose process ended",
}
