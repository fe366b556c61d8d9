# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What a network does instead of decoding ids over keys and values, seen in runs of a few tokens.

Only asked where torch itself does not decode with a cache, so that a refusal gives the reason and not its symptom.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache

from genai_iface._tolerance import LOGIT_TOLERANCES, relative_difference
from genai_iface.build._network_cache import cache_of
from genai_iface.build._verify import Reference
from genai_iface.build.checkpoint.quiet import BROKEN
from genai_iface.errors import UnsupportedModelError

__all__ = ["contradiction", "has_cache", "other_way", "refusal"]

_TOKENS, _MORE = 8, 5
# A logit of a token that changes by more tolerances when others follow is no matter of rounding.
_CLEARLY = 10
# What no run of a few tokens shows, by the class of the network; read in its source.
_READ: Mapping[str, str] = MappingProxyType(
    {
        "BltForCausalLM": "groups bytes into patches whose number depends on what the bytes are, and computes all "
        "patches anew in each step; of them it keeps nothing",
        "ProphetNetForCausalLM": "predicts from streams of its own beside that of the tokens, and with a cache takes "
        "one token at a time",
    }
)


def has_cache(network: Any) -> bool:
    """Whether a network gives a cache back when it is asked for one."""
    with torch.no_grad():
        return isinstance(cache_of(network(input_ids=_ids(2), use_cache=True)), Cache)


def contradiction(network: Any, reference: Reference) -> str | None:
    """Whether torch itself computes other logits by way of its cache than without it, as with a window in one of them.

    Args:
        network: The Transformers network in evaluation mode.
        reference: What it computed.

    Returns:
        The end of a sentence that begins with the network's name; None if it agrees with itself, or if the reference
        was computed without a cache.
    """
    if reference.more:
        return None
    prompt, tokens, kept = reference.prompts[0], reference.tokens[0], reference.logits[0]
    row = torch.from_numpy(np.concatenate((prompt, tokens)))[None]
    with torch.no_grad():
        whole = network(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 :, : kept.shape[1]].float().numpy()
    difference = max(relative_difference(one, other) for one, other in zip(kept, whole, strict=True))
    if difference <= _CLEARLY * LOGIT_TOLERANCES[_dtype(network)]:
        return None
    return f"computes other logits with its cache than without it (by {difference:.1e} of the largest one)"


def refusal(network: Any, way: str) -> UnsupportedModelError:
    """Of a network that has a way of its own, as ``other_way`` says it."""
    return UnsupportedModelError(
        f"{type(network).__name__} {way}",
        remedy="There is no standard form of this model yet; use an export for one runtime.",
    )


def other_way(network: Any) -> str | None:
    """What keeps a network from decoding step by step over keys and values.

    Args:
        network: The Transformers network in evaluation mode.

    Returns:
        The end of a sentence that begins with the network's name; None if nothing was found.
    """
    known = _READ.get(type(network).__name__)
    if known is not None:
        return known
    for look in (_adds_a_token, _keeps_in_output, _keeps_in_layers, _sees_ahead):
        try:
            with torch.no_grad():
                found = look(network)
        except BROKEN:
            continue  # it does not run in this way either, and that is what is being explained
        if found:
            return found
    return None


def _adds_a_token(network: Any) -> str:
    """XLM and XLNet predict at the place of a token that stands for the next one, and take it away again."""
    prepare: Callable[..., Any] = network.prepare_inputs_for_generation
    if "cache" in inspect.signature(prepare).parameters:
        prepared = prepare(_ids(_TOKENS), cache=None, use_cache=True, is_first_iteration=True)
    else:
        prepared = prepare(_ids(_TOKENS), use_cache=True, is_first_iteration=True)
    ids = prepared.get("input_ids")
    if ids is None or ids.shape[1] <= _TOKENS:
        return ""
    return "predicts at the place of a token that it puts behind the others, and replaces it in the next step"


def _keeps_in_output(network: Any) -> str:
    output = network(input_ids=_ids(_TOKENS), use_cache=True)
    cache = cache_of(output)
    if isinstance(cache, Cache):
        return ""
    kept = [name for name in output if name not in ("logits", "loss", "hidden_states", "attentions")]
    kept = kept if cache is None else [type(cache).__name__]
    return f"has no cache of keys and values; it keeps a state of its own ({', '.join(kept)})" if kept else ""


def _keeps_in_layers(network: Any) -> str:
    """RecurrentGemma keeps its states in its own layers, for one batch at a time."""
    network(input_ids=_ids(_TOKENS), use_cache=False)
    before = _tensors(network)
    network(input_ids=_ids(_TOKENS), use_cache=True)
    after = _tensors(network)
    kept = sorted({name.rpartition(".")[2] for name in after}) if after - before else []
    network(input_ids=_ids(_TOKENS), use_cache=False)
    if not kept:
        return ""
    return f"keeps states of its own in its layers ({', '.join(kept)}), where they are those of one batch"


def _tensors(network: Any) -> set[str]:
    """The names of what layers hold beside their weights."""
    return {
        f"{path}.{name}"
        for path, part in network.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, torch.Tensor)
    }


def _sees_ahead(network: Any) -> str:
    """Whether the logits of a token change when others follow it."""
    ids = _ids(_TOKENS + _MORE)
    first, again = (network(input_ids=ids[:, :_TOKENS], use_cache=False).logits.float() for _ in range(2))
    followed = network(input_ids=ids, use_cache=False).logits.float()[:, :_TOKENS]
    allowed = _CLEARLY * LOGIT_TOLERANCES[_dtype(network)] * float(followed.abs().max())
    if float((first - again).abs().max()) > allowed:
        return "computes other logits each time it is run"
    change = float((first - followed).abs().max())
    if change <= allowed:
        return ""
    share = change / float(followed.abs().max())
    return (
        f"is not causal: the logits of a token change by {share:.1e} of the largest one when others follow it, and "
        "nothing that it computes can be kept"
    )


def _dtype(network: Any) -> str:
    return str(network.dtype).removeprefix("torch.")


def _ids(count: int) -> torch.Tensor:
    """Tokens that are no special ones in any vocabulary of use."""
    return torch.arange(5, 5 + count)[None]
