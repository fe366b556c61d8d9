# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Processors and filters leave the same tokens, with the same probabilities, as those of Transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from genai_iface import GenerationConfig
from genai_iface.generation import Sampler

# A busy machine is slow; that is not a finding.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


pytestmark = pytest.mark.parity

EOS = 2


def theirs(row: np.ndarray, tokens: list[int], num_prompt: int, fields: dict[str, Any]) -> np.ndarray:
    """The law (V,) by Transformers' own classes, in the order in which ``generate`` applies them."""
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers.generation.logits_process")
    steps = []
    if "logit_bias" in fields:
        steps.append(hf.SequenceBiasLogitsProcessor({(token,): bias for token, bias in fields["logit_bias"].items()}))
    if "repetition_penalty" in fields:
        steps.append(hf.RepetitionPenaltyLogitsProcessor(fields["repetition_penalty"]))
    if "no_repeat_ngram_size" in fields:
        steps.append(hf.NoRepeatNGramLogitsProcessor(fields["no_repeat_ngram_size"]))
    if "bad_words_ids" in fields:
        words = [word for word in fields["bad_words_ids"] if word != [EOS]]
        if words:
            steps.append(hf.NoBadWordsLogitsProcessor(fields["bad_words_ids"], eos_token_id=EOS))
    if "min_new_tokens" in fields:
        steps.append(hf.MinNewTokensLengthLogitsProcessor(num_prompt, fields["min_new_tokens"], EOS))
    if "temperature" in fields:
        steps.append(hf.TemperatureLogitsWarper(fields["temperature"]))
    if "top_k" in fields:
        steps.append(hf.TopKLogitsWarper(fields["top_k"]))
    if "top_p" in fields:
        steps.append(hf.TopPLogitsWarper(fields["top_p"]))
    if "min_p" in fields:
        steps.append(hf.MinPLogitsWarper(fields["min_p"]))
    if "typical_p" in fields:
        steps.append(hf.TypicalLogitsWarper(fields["typical_p"]))
    # float64, as ours: at float32 a token at the very edge of a filter may fall on either side.
    scores = torch.from_numpy(row.astype(np.float64))[None]
    for step in steps:
        scores = step(torch.tensor([tokens]), scores)
    return torch.softmax(scores, dim=-1)[0].numpy()


def ours(row: np.ndarray, tokens: list[int], num_prompt: int, fields: dict[str, Any]) -> np.ndarray:
    config = GenerationConfig(**fields, do_sample=True)
    sampler = Sampler(config, vocab_size=len(row), stop_ids=(EOS,), seed=0)
    return sampler.probabilities(row, np.array(tokens), len(tokens) - num_prompt)


def parameters(vocab_size: int) -> dict[str, st.SearchStrategy[Any]]:
    token = st.integers(0, min(vocab_size, 12) - 1)
    return {
        "logit_bias": st.dictionaries(token, st.floats(-5, 5), min_size=1, max_size=4),
        "repetition_penalty": st.floats(0.5, 2.0),
        "no_repeat_ngram_size": st.integers(1, 4),
        "bad_words_ids": st.lists(st.lists(token, min_size=1, max_size=3), min_size=1, max_size=4),
        "min_new_tokens": st.integers(1, 10),
        "temperature": st.floats(0.1, 3.0),
        "top_k": st.integers(1, 60),
        "top_p": st.floats(0.01, 0.99),
        "min_p": st.floats(0.001, 0.5),
        "typical_p": st.floats(0.01, 0.99),
    }


def compare(data: st.DataObject, names: list[str]) -> None:
    vocab_size = data.draw(st.sampled_from([13, 200, 5000]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    row = (rng.normal(0, data.draw(st.floats(0.1, 5)), vocab_size)).astype(np.float32)
    # Few different tokens, so that n-grams and words do occur.
    tokens = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=30))
    num_prompt = data.draw(st.integers(0, len(tokens)))
    strategies = parameters(vocab_size)
    fields = {name: data.draw(strategies[name], label=name) for name in names}
    expected = theirs(row, tokens, num_prompt, fields)
    # Nothing left: we raise, they give NaN.
    assume(not np.isnan(expected).any())
    actual = ours(row, tokens, num_prompt, fields)
    assert np.flatnonzero(actual).tolist() == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", parameters(13))
@settings(RELAXED, max_examples=60)
@given(data=st.data())
def test_each_parameter(name: str, data: st.DataObject) -> None:
    compare(data, [name])


@settings(RELAXED, max_examples=300)
@given(data=st.data())
def test_parameters_combined(data: st.DataObject) -> None:
    compare(data, data.draw(st.lists(st.sampled_from(list(parameters(13))), unique=True, min_size=2), label="names"))


@settings(RELAXED, max_examples=60)
@given(data=st.data())
def test_top_k_keeps_ties_as_they_do(data: st.DataObject) -> None:
    row = np.array(data.draw(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=13, max_size=13)), np.float32)
    fields = {"top_k": data.draw(st.integers(1, 20))}
    np.testing.assert_allclose(ours(row, [1], 1, fields), theirs(row, [1], 1, fields), rtol=0, atol=1e-6)
