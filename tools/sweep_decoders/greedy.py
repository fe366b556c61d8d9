# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Greedy tokens of a built model beside those of Transformers' ``generate``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genai_iface import load_model
from genai_iface.build.methods.step.positions import padding_token

__all__ = ["BACKENDS", "against_generate"]

BACKENDS = ("numpy", "ort")
# A ragged batch beyond every length of a tiny configuration; 128 positions are the most that one has.
_PROMPTS, _NEW = (11, 70), 12
# What classes say of tokens that are to come, or not to come, whatever the logits are.
_RULES = ("eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")


def against_generate(folder: Path, network: Any) -> str:
    """Greedy tokens of a ragged batch against Transformers' ``generate`` of each row alone, in a network never traced.

    Returns:
        What is wrong; empty if nothing is.
    """
    vocabulary = network.config.get_text_config().vocab_size
    padding = padding_token(network)
    draw = np.random.default_rng(7)
    longest = _positions(folder) - _NEW - 1
    prompts = [draw.integers(3, vocabulary, min(size, longest), dtype=np.int64) for size in _PROMPTS]
    with torch.no_grad():
        expected = [_expected(network, torch.from_numpy(prompt)[None], padding) for prompt in prompts]
    for backend in BACKENDS:
        got = _greedy(folder, backend, prompts, padding)
        if got != expected:
            return f"generates other tokens than torch on {backend}: {got} instead of {expected}"
    return ""


def _positions(folder: Path) -> int:
    """How many a model may have; fewer than its network where frequencies change beyond (longrope)."""
    said = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    return int(said) if said and said > 0 else sys.maxsize  # some say -1, and mean no limit


def _expected(network: Any, ids: torch.Tensor, padding: int | None) -> list[int]:
    """Greedy tokens after a prompt, by ``generate``.

    Where a network counts positions from the row behind its padding's, ``generate`` tells it to count from 0, which is
    not what it was trained with: there the network runs alone, without a cache and without being told.
    """
    prompt = ids.shape[1]
    if padding is None:
        for rule in _RULES:
            setattr(network.generation_config, rule, None)
        mask = torch.ones_like(ids)
        ids = network.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=_NEW, pad_token_id=0)
    while ids.shape[1] < prompt + _NEW:
        logits = network(input_ids=ids, use_cache=False).logits[0, -1].clone()
        logits[padding] = -torch.inf  # it has no position of its own, and moves those after it
        ids = torch.cat((ids, logits.argmax()[None, None]), dim=1)
    return [int(token) for token in ids[0, prompt:]]


def _greedy(
    folder: Path, backend: str, prompts: Sequence[np.ndarray[Any, Any]], padding: int | None
) -> list[list[int]]:
    counts = np.array([len(prompt) for prompt in prompts])
    ids = np.zeros((len(prompts), counts.max()), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    model = load_model(folder, backend=backend)
    try:
        cache = model.create_cache(batch_size=len(prompts), capacity=int(counts.max()) + _NEW + 1)
        logits = model.forward(ids, cache, counts=counts)[:, -1]
        tokens: list[np.ndarray[Any, Any]] = []
        while len(tokens) < _NEW:
            if padding is not None:
                logits[:, padding] = -np.inf
            tokens.append(logits.argmax(-1))
            logits = model.forward(tokens[-1][:, None], cache)[:, -1]
        cache.close()
    finally:
        model.close()
    return [[int(token) for token in row] for row in np.stack(tokens, axis=1)]
