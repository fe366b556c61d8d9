# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What this loop cannot do yet. It is refused, never ignored."""

from __future__ import annotations

from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError

__all__ = ["check_supported"]

_BEAMS = "Beam search is not available yet; sample instead, or decode greedily."
_REMEDIES = {
    "num_beams": _BEAMS,
    "num_beam_groups": _BEAMS,
    "diversity_penalty": _BEAMS,
    "length_penalty": _BEAMS,
    "early_stopping": _BEAMS,
}
_NEUTRAL = GenerationConfig()


def check_supported(config: GenerationConfig, /) -> None:
    """Refuses what the loop cannot do.

    Raises:
        UnsupportedCapabilityError: Names the field.
        InvalidInputError: Several sequences are asked for, but greedy decoding gives only one.
    """
    for field, remedy in _REMEDIES.items():
        value = getattr(config, field)
        if value != getattr(_NEUTRAL, field):
            raise UnsupportedCapabilityError(f"{field}={value!r} is not supported", remedy=remedy)
    if config.num_return_sequences > 1 and not config.samples:
        raise InvalidInputError(
            f"num_return_sequences={config.num_return_sequences} with greedy decoding gives equal sequences",
            remedy="Set do_sample=True, or ask for one sequence.",
        )
