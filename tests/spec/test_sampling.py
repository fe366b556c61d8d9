# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""The sampling page: its vectors, the SDK's loop, and a second implementation that was written from the page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import BackendError, GenerationConfig, InvalidInputError, TextGenerationPipeline
from genai_iface.generation.sampling.sampler import Sampler, uniform
from tests.models import write_folder
from tests.spec import plain_sampling as plain
from tools.spec.vectors import FILE, as_text

VECTORS = json.loads(FILE.read_text(encoding="utf-8"))
CASES = VECTORS["cases"]


def sampler(config: dict[str, Any], vocab_size: int, stop_ids: list[int], seed: int = 0, **more: Any) -> Sampler:
    return Sampler(GenerationConfig(**config), vocab_size=vocab_size, stop_ids=stop_ids, seed=seed, **more)


def test_making_the_vectors_again_gives_the_same_file() -> None:
    assert FILE.read_text(encoding="utf-8") == as_text(), "run: python -m tools.spec.vectors"


def test_the_known_answers_of_random123() -> None:
    """From the list of known answers that comes with the paper's own library."""
    ones = 2**64 - 1
    pi = (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89)
    for counter, key, first, last in (
        ((0, 0, 0, 0), (0, 0), 0x16554D9ECA36314C, 0x7E68B68AEC7BA23B),
        ((ones,) * 4, (ones,) * 2, 0x87B092C3013FE90B, 0xA09CAEBF594F0BA0),
        (pi, (0x452821E638D01377, 0xBE5466CF34E90C6C), 0xA528F45403E61D95, 0x57BD43B5E52B7FE6),
    ):
        block = plain.philox(counter, key)
        assert (block[0], block[3]) == (first, last)


@pytest.mark.parametrize("vector", VECTORS["random_numbers"], ids=lambda v: f"{v['seed']}-{v['index']}-{v['position']}")
def test_random_numbers(vector: dict[str, int]) -> None:
    arguments = vector["seed"], vector["index"], vector["position"]
    assert plain.bits(*arguments) == vector["bits"]
    assert uniform(*arguments) == vector["bits"] * 2.0**-53


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_loop_gives_the_vectors(case: dict[str, Any]) -> None:
    logits, tokens = np.array(case["logits"], np.float32), np.array(case["tokens"], np.int64)
    assert logits.tolist() == case["logits"], "a logit is not exact in float32"
    for draw in case["draws"]:
        one = sampler(case["config"], len(logits), case["stop_ids"], draw["seed"])
        assert one.choose(logits, tokens, case["num_new"], draw["index"]) == draw["token"]
    law = one.probabilities(logits, tokens, case["num_new"])
    assert np.flatnonzero(law).tolist() == case["kept"]
    np.testing.assert_allclose(law[law > 0], case["probabilities"], rtol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_page_alone_gives_the_vectors(case: dict[str, Any]) -> None:
    given = case["logits"], case["config"], case["tokens"], case["num_new"], case["stop_ids"]
    scores = plain.processed(*given)
    assert [None if score == -math.inf else score for score in scores] == case["scores"]
    for draw in case["draws"]:
        assert plain.choose(*given, seed=draw["seed"], index=draw["index"]) == draw["token"]
    if plain.draws(case["config"]):
        weights = plain.weights(plain.survivors(scores, case["config"]))
        assert [token for token, weight in weights.items() if weight > 0] == case["kept"]


def test_every_rule_has_a_vector() -> None:
    named = {name for case in CASES for name in case["config"]}
    processors = {"logit_bias", "repetition_penalty", "presence_penalty", "frequency_penalty", "no_repeat_ngram_size"}
    filters = {"temperature", "top_k", "top_p", "min_p", "typical_p"}
    assert named == processors | filters | {"bad_words_ids", "min_new_tokens", "do_sample"}
    assert sum(len(case["draws"]) > 1 for case in CASES) >= 15


@pytest.mark.parametrize("seed", range(6))
def test_large_vocabularies(seed: int) -> None:
    """Thousands of tokens, where the loop does not sort: the page's plain reading keeps and draws the same."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, 6000).astype(np.float32)
    logits[random.integers(0, 6000, 2000)] = np.float32(1.5)  # many ties
    config = [
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 1.7, "top_k": 50, "top_p": 0.95},
        {"min_p": 0.05},
        {"typical_p": 0.7},
        {"temperature": 1.2, "top_k": 3000, "typical_p": 0.9, "min_p": 0.001},
        {"do_sample": True, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    ][seed]
    tokens = random.integers(0, 6000, 300).tolist()
    z = plain.survivors(plain.processed(logits.tolist(), config, tokens, 100, [0]), config)
    law = sampler(config, 6000, [0]).probabilities(logits, np.array(tokens), 100)
    assert np.flatnonzero(law).tolist() == sorted(z)
    weights = plain.weights(z)
    for index in range(20):
        one = sampler(config, 6000, [0], seed=5)
        u = plain.bits(5, index, len(tokens)) * 2.0**-53
        assert one.choose(logits, np.array(tokens), 100, index) == plain.drawn(weights, u)


def test_functions_of_the_caller_come_last() -> None:
    """Sampling.10: a constraint after the configuration's processors, then the functions in their order."""
    seen = []

    def constraint(scores: np.ndarray, tokens: np.ndarray, new: int) -> None:
        seen.append(("constraint", scores.tolist()))
        scores[0] = -np.inf

    def first(tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
        seen.append(("first", scores.tolist()))
        return scores + 1

    def second(tokens: np.ndarray, scores: np.ndarray) -> None:
        seen.append(("second", scores.tolist()))

    config = {"logit_bias": {1: 2.0}, "min_new_tokens": 1}
    one = sampler(config, 3, [2], constraint=constraint, hooks=[first, second])
    assert one.choose(np.array([5, 1, 9], np.float32), np.array([0]), 0, 0) == 1
    inf = -math.inf
    assert seen == [("constraint", [5, 3, inf]), ("first", [inf, 3, inf]), ("second", [inf, 4, inf])]


@pytest.mark.parametrize("config", [{}, {"temperature": 0.5}, {"logit_bias": {0: 1.0}}], ids=str)
def test_logits_that_cannot_be_used(config: dict[str, Any]) -> None:
    """Sampling.2."""
    for bad in ([1, np.nan, 2], [1, np.inf, 2], [-np.inf] * 3):
        with pytest.raises(BackendError):
            sampler(config, 3, []).choose(np.array(bad, np.float32), np.array([0]), 0, 0)
    assert sampler(config, 3, []).choose(np.array([-np.inf, 1, -np.inf], np.float32), np.array([0]), 0, 0) == 1


@pytest.mark.parametrize("config", [{}, {"temperature": 0.5}], ids=str)
def test_nothing_left_to_choose(config: dict[str, Any]) -> None:
    """Sampling.11."""
    with pytest.raises(InvalidInputError):
        sampler({**config, "min_new_tokens": 1}, 2, [0, 1]).choose(np.zeros(2, np.float32), np.array([0]), 0, 0)


def test_the_index_counts_all_sequences_of_a_call(tmp_path: Path) -> None:
    """Sampling.21: prompts in their order, each with all of its sequences."""
    with TextGenerationPipeline(write_folder(tmp_path / "model")) as pipeline:
        prompts, config = [[5, 6], [7, 8, 9]], {"temperature": 5.0}
        result = pipeline.generate(prompts, num_return_sequences=3, max_new_tokens=1, seed=11, **config)
        for index, (token,) in enumerate(result.token_ids):
            prompt = prompts[index // 3]
            logits = pipeline.model.forward([prompt], pipeline.model.create_cache(capacity=4))[0, 0].tolist()
            assert token == plain.choose(logits, config, prompt, 0, [], seed=11, index=index)
