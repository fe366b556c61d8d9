# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Combinations of parameters that mean nothing. They are refused, never ignored."""

from __future__ import annotations

from collections.abc import Sequence

from genai_iface.config import GenerationConfig
from genai_iface.errors import InvalidInputError, UnsupportedCapabilityError
from genai_iface.generation.hooks import GenerationHooks

__all__ = ["check_supported", "check_together", "check_token_by_token"]

_NEEDS_BEAMS = ("diversity_penalty", "length_penalty", "early_stopping")
_NEUTRAL = GenerationConfig()


def check_supported(config: GenerationConfig, /) -> None:
    """Refuses what the loop would have to ignore.

    Raises:
        InvalidInputError: A field belongs to beam search, which is off, or several sequences are asked
            for where there is only one.
        UnsupportedCapabilityError: Beam search is to draw tokens, or to echo the prompt.
    """
    if config.num_beams == 1:
        for field in _NEEDS_BEAMS:
            value = getattr(config, field)
            if value != getattr(_NEUTRAL, field):
                raise InvalidInputError(f"{field}={value!r} needs beam search", remedy="Set num_beams above 1.")
        if config.num_return_sequences > 1 and not config.samples:
            raise InvalidInputError(
                f"num_return_sequences={config.num_return_sequences} with greedy decoding gives equal sequences",
                remedy="Set do_sample=True or num_beams, or ask for one sequence.",
            )
        return
    if config.diversity_penalty and config.num_beam_groups == 1:
        raise InvalidInputError(
            f"diversity_penalty={config.diversity_penalty} needs several groups", remedy="Set num_beam_groups above 1."
        )
    if config.samples:
        raise UnsupportedCapabilityError(
            f"num_beams={config.num_beams} with sampling is not supported", remedy="Set do_sample=False or num_beams=1."
        )
    if config.echo:
        raise UnsupportedCapabilityError("echo=True is not supported with num_beams", remedy="Set echo=False.")


def check_token_by_token(configs: Sequence[GenerationConfig], *, has_text: bool) -> None:
    """Refuses what a loop that goes token by token cannot do.

    Args:
        configs: Of its sequences.
        has_text: Whether there is a tokenizer.

    Raises:
        InvalidInputError: As ``check_supported``; or there are stop strings and no text.
        UnsupportedCapabilityError: Beam search is asked for.
    """
    for config in configs:
        check_supported(config)
        if config.num_beams > 1:
            raise UnsupportedCapabilityError(
                "num_beams above 1 is not supported token by token", remedy="Use a pipeline, which searches beams."
            )
        if config.stop_strings and not has_text:
            raise InvalidInputError(
                "stop_strings need text, and there is no tokenizer", remedy="Give one, or use stop_token_ids."
            )


def check_together(configs: Sequence[GenerationConfig], hooks: GenerationHooks, /) -> None:
    """Refuses configurations that cannot run in one call.

    Raises:
        InvalidInputError: Some prompts ask for beam search and others do not.
        UnsupportedCapabilityError: Beam search or log-probabilities of the prompt with a saved prompt.
    """
    if len({config.num_beams > 1 for config in configs}) > 1:
        raise InvalidInputError("Some prompts ask for beam search and others do not", remedy="Use two calls.")
    if hooks.prefix is not None and any(config.num_beams > 1 or config.echo for config in configs):
        raise UnsupportedCapabilityError(
            "prefix is not supported with num_beams or echo", remedy="Leave prefix or these fields alone."
        )
    if hooks.speculation is not None and any(config.num_beams > 1 for config in configs):
        raise UnsupportedCapabilityError("speculation is not supported with num_beams", remedy="Use one of them.")
