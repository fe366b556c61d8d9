# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random decoders of as many architectures as Transformers has: our families, then the rest of its own list."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from genai_iface.build._families import FAMILIES, Family, tiny_model
from genai_iface.errors import UnsupportedModelError
from tools.sweep_decoders.tiny import tiny_settings

__all__ = ["MOST_WEIGHTS", "architectures", "network_of"]

MOST_WEIGHTS = 4_000_000


def architectures() -> dict[str, Family]:
    """Our families, one for each model type first; then every other decoder that Transformers lists."""
    found = dict(FAMILIES)
    known = {family.model_type for family in FAMILIES.values()}
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if name not in known and name not in found:
            found[name] = Family(name, name)
    return found


def network_of(name: str) -> Any:
    """A tiny seeded network in evaluation mode.

    Raises:
        UnsupportedModelError: Its configuration cannot be made tiny by the names of its sizes, or it is no decoder.
    """
    family = architectures()[name]
    if name not in FAMILIES:
        family = Family(name, family.model_type, tiny_settings(family))
    config = AutoConfig.for_model(family.model_type, **family.settings)
    if config.get_text_config() is not config:
        raise UnsupportedModelError(f"{family.model_type} is made of several networks", remedy="Take its text model.")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{name} is a half of an encoder with a decoder", remedy="Take a decoder.")
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
    weights = sum(parameter.numel() for parameter in empty.parameters())
    if weights > MOST_WEIGHTS:
        raise UnsupportedModelError(f"{name} has {weights} weights in its smallest form", remedy="Name its sizes.")
    return tiny_model(family)
