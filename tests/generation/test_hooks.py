# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The caller's own processors and criteria, and a configuration for each prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genai_iface import GenerationConfig, InvalidInputError, TextGenerationPipeline
from tests.fakes import ByteTokenizer, FakeModel, speaks


def pipeline_of(**arguments: Any) -> TextGenerationPipeline:
    return TextGenerationPipeline.from_parts(FakeModel(258, **arguments), ByteTokenizer())


def test_a_processor_changes_scores_in_place_or_by_value() -> None:
    def only_x(tokens: np.ndarray, scores: np.ndarray) -> None:
        scores[np.arange(len(scores)) != ord("x")] = -np.inf

    def only_y(tokens: np.ndarray, scores: np.ndarray) -> list[float]:
        return [0.0 if token == ord("y") else -np.inf for token in range(len(scores))]

    pipe = pipeline_of()
    assert pipe.generate("a", logits_processors=[only_x], max_new_tokens=3).text == "xxx"
    assert pipe.generate("a", logits_processors=[only_y], max_new_tokens=3, temperature=2.0).text == "yyy"
    assert "".join(chunk.text for chunk in pipe.stream("a", logits_processors=[only_x], max_new_tokens=2)) == "xx"


def test_processors_run_in_order_after_the_others_and_see_the_whole_sequence() -> None:
    seen: list[tuple[list[int], float]] = []

    def first(tokens: np.ndarray, scores: np.ndarray) -> None:
        seen.append((tokens.tolist(), float(scores[5])))
        tokens[:] = 0  # a copy: the sequence is not the caller's
        scores[:] = 0

    def second(tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
        assert not scores.any()
        return np.eye(len(scores))[7]

    result = pipeline_of().generate([1, 2], logits_processors=[first, second], logit_bias={5: 1000.0}, max_new_tokens=2)
    assert result.token_ids == [[7, 7]]
    assert [tokens for tokens, _ in seen] == [[1, 2], [1, 2, 7]]
    assert all(score > 900 for _, score in seen)


def boost_one_without_end(tokens: Any, scores: Any) -> None:
    scores[3] = np.inf


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda tokens, scores: scores[:5], "shape"),
        (lambda tokens, scores: scores * np.nan, "function '<lambda>' of logits_processors gave nan for the token 0"),
        (lambda tokens, scores: scores + np.inf, "function '<lambda>' of logits_processors gave inf for the token 0"),
        (boost_one_without_end, "function 'boost_one_without_end' of logits_processors gave inf for the token 3"),
        (lambda tokens, scores: [str(score) for score in scores], "gave <U"),
        (lambda tokens, scores: scores - np.inf, "Every token is ruled out"),
    ],
)
def test_what_a_processor_may_not_give(hook: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        pipeline_of().generate("a", logits_processors=[hook], max_new_tokens=2)


def test_a_criterion_sees_tokens_and_text_and_ends_its_own_sequence() -> None:
    texts: list[str] = []

    def is_long(tokens: np.ndarray, text: str) -> bool:
        texts.append(text)
        return text.endswith("b") and tokens[0] == ord("1")

    result = pipeline_of(script=speaks("abcd")).generate(["1", "2"], stopping_criteria=[is_long])
    assert result.texts == ["ab", "abcd"]
    assert result.finish_reasons == ["stop", "stop"]
    assert texts == ["a", "a", "ab", "ab", "abc", "abcd", "abcd"]


# A configuration for each prompt


def test_each_prompt_has_its_own_configuration() -> None:
    pipe = pipeline_of()
    prompts = ["ab", "c", "defg", "h"]
    configs = [
        GenerationConfig(max_new_tokens=3),
        GenerationConfig(max_new_tokens=7, repetition_penalty=1.5, logprobs=1),
        GenerationConfig(max_new_tokens=5, min_new_tokens=2, stop_strings=["e"]),
        GenerationConfig(max_length=4),
    ]
    result = pipe.generate(prompts, configs)
    alone = [pipe.generate(prompt, config) for prompt, config in zip(prompts, configs, strict=True)]
    assert result.texts == [one.text for one in alone]
    assert result.token_ids == [one.token_ids[0] for one in alone]
    assert result.finish_reasons == [one.finish_reasons[0] for one in alone]
    assert result.logprobs is not None
    assert [len(entries) for entries in result.logprobs] == [0, 7, 0, 0]
    assert result.seed is None


def test_overrides_apply_to_each_and_seeds_are_shared_unless_given() -> None:
    pipe = pipeline_of()
    configs = [GenerationConfig(), GenerationConfig(temperature=1.5), GenerationConfig(temperature=1.5, seed=5)]
    result = pipe.generate(["a", "b", "c"], configs, max_new_tokens=8)
    assert [len(tokens) for tokens in result.token_ids] == [8, 8, 8]
    repeated = [GenerationConfig(), GenerationConfig(temperature=1.5, seed=result.seed), configs[2]]
    assert pipe.generate(["a", "b", "c"], repeated, max_new_tokens=8).texts == result.texts


def test_num_return_sequences_of_each_prompt() -> None:
    configs = [GenerationConfig(), GenerationConfig(num_return_sequences=2, temperature=2.0, seed=1)]
    result = pipeline_of().generate(["a", "b"], configs, max_new_tokens=6)
    assert len(result.texts) == 3
    assert result.texts[1] != result.texts[2]


def test_one_configuration_per_prompt_or_an_error() -> None:
    with pytest.raises(InvalidInputError, match="2 configurations for 3 sequences"):
        pipeline_of().generate(["a", "b", "c"], [GenerationConfig()] * 2)


def test_one_prompt_runs_out_of_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def tick(step: int) -> None:
        now[0] += 1

    configs = [GenerationConfig(max_time=2), GenerationConfig(max_new_tokens=5)]
    result = pipeline_of(on_step=tick).generate(["a", "b"], configs)
    assert result.finish_reasons == ["time", "length"]
    assert [len(tokens) for tokens in result.token_ids] == [2, 5]
