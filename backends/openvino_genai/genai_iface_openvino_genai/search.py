# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A configuration in the runtime's own words; what it has no word for is refused."""

from __future__ import annotations

import secrets
from typing import Any

import openvino_genai

from genai_iface.backend_kit import check_honored
from genai_iface.config import GenerationConfig

__all__ = ["search_config"]

_ALWAYS = ("repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size")
_OF_DRAWS = ("temperature", "top_p", "min_p")
_WATCHED = ("stop_token_ids", "eos_token_id", "ignore_eos")
_KNOWN = {*_ALWAYS, *_OF_DRAWS, *_WATCHED, "do_sample", "top_k", "seed"}


def search_config(config: GenerationConfig) -> Any:
    """The runtime's configuration. It never ends by itself: the generator knows the tokens that end a sequence.

    Raises:
        UnsupportedCapabilityError: A field is not neutral, and the runtime cannot honor it.
    """
    check_honored(config, _KNOWN, "OpenVINO GenAI")
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
