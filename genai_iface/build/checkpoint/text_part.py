# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The weights of the text decoder in the checkpoint of a network that has others beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["text_weights"]

# What such a network puts before the names of its decoder's weights, and what stands there in the decoder alone.
_NAMES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.text_model.", "model."),
    ("text_model.model.", "model."),
)
_HEAD = "lm_head."


def text_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's weights by the names that they have in the decoder alone.

    Args:
        state: All weights by their names in the checkpoint; if none has a prefix of a decoder, they are its own.
    """
    found: dict[str, Any] = {}
    for name, weight in state.items():
        given = next((alone + name.removeprefix(prefix) for prefix, alone in _NAMES if name.startswith(prefix)), None)
        if given is not None:
            found[given] = weight
    if not found:
        return dict(state)
    return found | {name: weight for name, weight in state.items() if name.startswith(_HEAD)}
