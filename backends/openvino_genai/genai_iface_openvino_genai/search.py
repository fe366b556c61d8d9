# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A configuration in the runtime's own words; what it has no word for is refused."""

from __future__ import annotations

import dataclasses
import secrets
from typing import Any

import openvino_genai

from genai_iface.config import GenerationConfig
from genai_iface.errors import UnsupportedCapabilityError

__all__ = ["search_config", "stop_ids"]

_ALWAYS = ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size")
_OF_DRAWS = ("temperature", "top_p", "min_p")
_WATCHED = ("stop_token_ids", "eos_token_id", "ignore_eos")
_KNOWN = {*_ALWAYS, *_OF_DRAWS, *_WATCHED, "do_sample", "top_k", "seed"}


def search_config(config: GenerationConfig) -> Any:
    """The runtime's configuration. It never ends by itself: the generator knows the tokens that end a sequence.

    Raises:
        UnsupportedCapabilityError: A field is not neutral, and the runtime cannot honor it.
    """
    neutral = GenerationConfig()
    for field in dataclasses.fields(config):
        if field.name not in _KNOWN and getattr(config, field.name) != getattr(neutral, field.name):
            raise UnsupportedCapabilityError(
                f"OpenVINO GenAI cannot honor {field.name}", remedy="Leave it alone, or use the backend 'ort'."
            )
    search = openvino_genai.GenerationConfig()
    search.apply_chat_template = False
    search.ignore_eos = True
    search.do_sample = config.samples
    for name in (*_ALWAYS, *(_OF_DRAWS if config.samples else ())):
        setattr(search, name, getattr(config, name))
    if config.samples and config.top_k:
        search.top_k = config.top_k
    # Its own default is the same for every call.
    search.rng_seed = secrets.randbelow(2**31) if config.seed is None else config.seed
    return search


def stop_ids(config: GenerationConfig, own: frozenset[int]) -> frozenset[int]:
    """The tokens that end a sequence."""
    ends = config.eos_token_id
    if config.ignore_eos:
        ends = ()
    elif ends is None:
        ends = tuple(own)
    return frozenset(config.stop_token_ids) | frozenset((ends,) if isinstance(ends, int) else ends)
