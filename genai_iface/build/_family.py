# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a tiny random decoder of one family is, and the sizes that most share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HEAD", "VOCAB_SIZE", "Family", "family", "rope"]

VOCAB_SIZE = 131

# 64 wide, head size 16, two query heads to a key head: small, and yet nothing is 1 or equal by accident.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
HEAD: dict[str, Any] = {"head_dim": 16}
_TOKENS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BASE = 10000.0


@dataclass(frozen=True, slots=True)
class Family:
    """One decoder architecture in a small size.

    Attributes:
        name: The name in reports and tests.
        model_type: The name that Transformers gives it.
        settings: Arguments of its configuration class.
        notes: What sets it apart from a Llama.
        inexpressible: Why the standard operators cannot express it ("" if they can).
    """

    name: str
    model_type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    inexpressible: str = ""


def family(
    name: str,
    *notes: str,
    model_type: str | None = None,
    sizes: bool = True,
    inexpressible: str = "",
    **settings: Any,
) -> Family:
    base = _SIZES if sizes else {}
    return Family(name, model_type or name, {**base, **_TOKENS, **settings}, notes, inexpressible)


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": _BASE, **more}
