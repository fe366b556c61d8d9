# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Networks that one method cannot lead to the standard operators."""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import CacheLayerMixin, DummyLayer, DynamicCache, LinearAttentionCacheLayerMixin

from genai_iface.errors import UnsupportedModelError

__all__ = ["check_expressible", "check_stateless"]

_ALIBI_BUILDERS = ("build_alibi_tensor", "build_mpt_alibi_tensor")


def check_expressible(network: Any) -> None:
    """Refuses a network whose attention no attribute of the standard operator says.

    Raises:
        UnsupportedModelError: It has ALiBi.
    """
    name = type(network).__name__
    config = network.config
    if getattr(config, "alibi", False) or any(
        hasattr(part, builder) for part in network.modules() for builder in _ALIBI_BUILDERS
    ):
        raise UnsupportedModelError(
            f"{name} uses ALiBi, a bias of the scores that grows with the distance, which the standard Attention has "
            "no attribute for",
            remedy="genai-iface build makes a standard model of it, with the bias as a mask.",
        )


def check_stateless(network: Any) -> None:
    """Refuses a network whose cache holds more than keys and values.

    Raises:
        UnsupportedModelError: It does.
    """
    for index, layer in enumerate(DynamicCache(config=network.config).layers):
        if isinstance(layer, LinearAttentionCacheLayerMixin) or not isinstance(layer, (CacheLayerMixin, DummyLayer)):
            raise UnsupportedModelError(
                f"Layer {index} of {type(network).__name__} keeps a {type(layer).__name__} in its cache, expected keys "
                "and values",
                remedy="genai-iface build takes checkpoints of networks that keep states.",
            )
