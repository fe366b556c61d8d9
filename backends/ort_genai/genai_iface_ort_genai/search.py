# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A configuration in the runtime's own words; what it has no word for is refused."""

from __future__ import annotations

from typing import Any

from genai_iface.backend_kit import check_honored
from genai_iface.config import GenerationConfig
from genai_iface_ort_genai.model import LoadedModel

__all__ = ["search_options"]

# min_p, min_new_tokens and n-grams are left out: the runtime takes them, and does nothing with them on the processor.
_KNOWN = {"do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "seed"}
_KNOWN |= {"stop_token_ids", "eos_token_id", "ignore_eos"}  # which the generator watches
_MAX_SEED = 2**31


def search_options(config: GenerationConfig, model: LoadedModel, capacity: int | None) -> dict[str, Any]:
    """The runtime's search options.

    Raises:
        UnsupportedCapabilityError: A field is not neutral, and the runtime cannot honor it.
    """
    check_honored(config, _KNOWN, "ONNX Runtime GenAI")
    room = model.context_length if capacity is None else min(capacity, model.context_length)
    options: dict[str, Any] = {"max_length": room, "do_sample": config.samples}
    options["repetition_penalty"] = config.repetition_penalty
    if config.samples:
        # Without top_k its top_p lets too many tokens through (docs/reports/upstream); all tokens are no limit.
        top_k = config.top_k or model.vocab_size
        options |= {"temperature": config.temperature, "top_k": top_k, "top_p": config.top_p}
    if config.seed is not None:
        options["random_seed"] = config.seed % _MAX_SEED
    return options
