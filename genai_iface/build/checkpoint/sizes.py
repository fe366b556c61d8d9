# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Compares the sizes that a checkpoint's configuration names with what its files hold, before a network is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genai_iface.errors import InvalidInputError

__all__ = ["check_layers", "check_sizes"]

# Each of these stands beside the hidden size as the other axis of some matrix, or counts vectors of that size.
_BESIDE_HIDDEN = (
    *("vocab_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "num_experts", "num_local_experts", "n_routed_experts"),
)
# Weights of one bit are the smallest there are; tables may be factorized.
_FEWEST_BYTES = 1 / 16


# Transformers goes through all layers' names for each part of the network; no model has nearly as many.
_MOST_LAYERS = 512


def check_layers(config: Any, file: Path) -> None:
    """Refuses a GGUF file with more layers than tensors.

    Args:
        config: The configuration that Transformers read from it.
        file: The file.

    Raises:
        InvalidInputError: It has.
    """
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    with file.open("rb") as opened:
        tensors = int.from_bytes(opened.read(16)[8:], "little")
    if isinstance(layers, int) and layers > min(tensors, _MOST_LAYERS):
        raise InvalidInputError(
            f"{file.name!r} has {layers} layers (block_count) and {tensors} tensors; a layer has one at least, and at "
            f"most {_MOST_LAYERS} layers are read",
            remedy="Copy the file again.",
        )


def check_sizes(config: Any, num_bytes: int, name: str) -> None:
    """Refuses a configuration that asks for a network far larger than the weights there are.

    Args:
        config: The configuration of Transformers.
        num_bytes: Size of the weights' files.
        name: The checkpoint's, for the message.

    Raises:
        InvalidInputError: A size is not positive, or too large for the files.
    """
    text = config.get_text_config()
    hidden = getattr(text, "hidden_size", None)
    if not isinstance(hidden, int):
        return
    for field in ("hidden_size", *_BESIDE_HIDDEN):
        value = _size(text, field)
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        # A layer has at least one square matrix of the hidden size.
        each = {"hidden_size": 1, "num_hidden_layers": hidden * hidden}.get(field, hidden)
        if value < 0 or value * each * _FEWEST_BYTES > num_bytes:
            raise InvalidInputError(
                f"The configuration of {name!r} has {field}={value} and hidden_size={hidden}, which {num_bytes} bytes "
                "of weights cannot fill",
                remedy="Copy the checkpoint again, with all of its files.",
            )


def _size(config: Any, field: str) -> Any:
    try:
        return getattr(config, field, None)
    except RuntimeError:
        # Transformers refuses to give one value for what differs from layer to layer, as Gemma 4's head size.
        return None
