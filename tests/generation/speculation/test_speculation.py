# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding gives the tokens of plain decoding, in fewer steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai_iface import (
    Capability,
    GenerationConfig,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
    load_model,
)
from genai_iface.generation import DraftModel, GenerationHooks, ModelGenerator, PromptLookup
from genai_iface.generation.speculation.speculator import DraftRequest
from genai_iface.models import default_folder
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel, speaks
from tests.marks import examples

VOCAB = 12


class Similar(FakeModel):
    """A draft model: the same logits with some noise, so that it is right now and then."""

    def __init__(self, noise: float, **arguments: Any) -> None:
        super().__init__(VOCAB, **arguments)
        self._noise = noise

    def logits_after(self, tokens: Sequence[int]) -> np.ndarray:
        noise = np.random.default_rng([len(tokens), *tokens]).normal(0, self._noise, VOCAB)
        return (super().logits_after(tokens) + noise).astype(np.float32)


class Oddly:
    """Drafts anything, right or wrong: what the real drafters may not do to the output."""

    def __init__(self, model: FakeModel, seed: int) -> None:
        self._model = model
        self._random = np.random.default_rng(seed)

    def start(self, model: Any, num_sequences: int, capacity: int, /) -> Oddly:
        return self

    def propose(self, requests: Sequence[DraftRequest], choose: Any, /) -> list[list[int]]:
        found = []
        for request in requests:
            tokens = request.tokens.tolist()
            for at in range(int(self._random.integers(0, 7))):
                logits = self._model.logits_after(tokens)
                right = choose(request.index, logits, np.array(tokens), request.num_new + at)
                tokens.append(right if self._random.random() < 0.7 else int(self._random.integers(VOCAB)))
            found.append(tokens[len(request.tokens) :])
        return found

    def close(self) -> None:
        pass


def finish(generator: ModelGenerator[Any]) -> list[list[int]]:
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(index) for index in range(len(generator.finish_reasons))]


FIELDS = st.sampled_from(
    [
        {},
        {"temperature": 1.3, "seed": 3},
        {"temperature": 0.8, "top_k": 5, "seed": 1, "repetition_penalty": 1.4},
        {"frequency_penalty": 1.0, "logprobs": 2},
        {"no_repeat_ngram_size": 3, "min_new_tokens": 5},
    ]
)


@settings(deadline=None, max_examples=examples(120, 30))
@given(
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8), min_size=1, max_size=4),
    fields=FIELDS,
    data=st.data(),
)
def test_tokens_are_those_of_plain_decoding_also_in_batches_and_after_changes(
    prompts: list[list[int]], fields: dict[str, Any], data: st.DataObject
) -> None:
    model = FakeModel(VOCAB, capabilities=ALL_CAPABILITIES - data.draw(st.sampled_from([set(), {Capability.RAGGED}])))
    ways: list[Any] = [
        PromptLookup(data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))),
        DraftModel(Similar(data.draw(st.sampled_from([0.0, 0.5, 5.0]))), data.draw(st.integers(1, 5))),
        Oddly(model, data.draw(st.integers(0, 99))),
    ]
    config = GenerationConfig(max_new_tokens=data.draw(st.integers(1, 14)), **fields)

    def make(speculation: Any) -> ModelGenerator[Any]:
        generator = ModelGenerator(
            model,
            config,
            num_sequences=len(prompts),
            capacity=64,
            eos_token_ids=[2],
            hooks=GenerationHooks(speculation=speculation),
            drops_finished=data.draw(st.booleans()),
        )
        generator.append_tokens(prompts)
        return generator

    plain, guessed = make(None), make(data.draw(st.sampled_from(ways)))
    assert finish(guessed) == finish(plain)
    assert guessed.finish_reasons == plain.finish_reasons
    logprobs = [[generator.get_logprobs(at) for at in range(len(prompts))] for generator in (guessed, plain)]
    assert logprobs[0] == logprobs[1]
    # A second turn and a rewind find a cache without drafts.
    more = [data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3)) for _ in prompts]
    for generator in (plain, guessed):
        generator.append_tokens(more)
        generator.generate_next_token()
    assert finish(guessed) == finish(plain)
    lengths = [data.draw(st.integers(1, plain.token_count(at))) for at in range(len(prompts))]
    for generator in (plain, guessed):
        generator.rewind_to(lengths)
    assert finish(guessed) == finish(plain)


@pytest.mark.slow
def test_sampling_keeps_the_law() -> None:
    """The frequency of each continuation of two tokens, against its exact probability."""
    model, draws, prompt = FakeModel(4), 2000, [1, 2, 1]
    draft = FakeModel(4, context_length=255)
    config = GenerationConfig(max_new_tokens=2, temperature=2.0)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(draws):
        hooks = GenerationHooks(speculation=PromptLookup(2) if seed % 2 else DraftModel(draft, 2))
        generator = ModelGenerator(model, config, capacity=8, seed=seed, hooks=hooks)
        generator.append_tokens(prompt)
        tokens = tuple(finish(generator)[0][3:])
        counts[tokens] = counts.get(tokens, 0) + 1

    def law(tokens: list[int]) -> np.ndarray:
        weights = np.exp(model.logits_after(tokens).astype(np.float64) / 2.0)
        return weights / weights.sum()

    first = law(prompt)
    expected = np.array([first[a] * law([*prompt, a])[b] for a in range(4) for b in range(4)]) * draws
    found = np.array([counts.get((a, b), 0) for a in range(4) for b in range(4)])
    # Chi-square with 15 degrees of freedom is above 45 once in ten thousand; the seeds are fixed.
    assert ((found - expected) ** 2 / expected).sum() < 45


def test_accepted_drafts_need_no_step_and_are_counted() -> None:
    model = FakeModel(258, script=speaks("abcabcabcabcabcabc"), context_length=256)
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    plain = pipe.generate("1")
    num_plain = len(model.steps)
    model.steps.clear()
    # "speaks" knows where it is by what it has said, so what is copied is right until the end.
    guessed = pipe.generate("1", speculation=PromptLookup(4))
    assert (guessed.texts, guessed.token_ids, guessed.finish_reasons) == (
        plain.texts,
        plain.token_ids,
        plain.finish_reasons,
    )
    assert len(model.steps) < num_plain / 2
    metrics = guessed.perf_metrics
    # Steps are runs of the model; the time between tokens is per token all the same.
    assert metrics.num_decode_steps == len(model.steps) - 1
    assert metrics.num_decode_rounds == metrics.num_generated_tokens - 1
    assert metrics.time_per_output_token == metrics.decode_seconds / metrics.num_decode_rounds
    assert plain.perf_metrics.num_decode_steps == plain.perf_metrics.num_decode_rounds == num_plain - 1
    assert 0 < metrics.num_accepted_tokens <= metrics.num_drafted_tokens
    assert metrics.acceptance_rate == metrics.num_accepted_tokens / metrics.num_drafted_tokens
    assert metrics.num_generated_tokens == plain.perf_metrics.num_generated_tokens
    assert plain.perf_metrics.acceptance_rate == 0
    assert "".join(chunk.text for chunk in pipe.stream("1", speculation=PromptLookup(4))) == plain.text
    assert model.open_caches == []


def test_rows_of_a_batch_accept_different_counts_in_one_step() -> None:
    model = FakeModel(258, script=lambda tokens: tokens[0] if tokens[0] < 100 else (tokens[-1] * 7 + 1) % 250)
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    prompts = [[65, 65, 65, 65], [101, 5, 5]]
    plain = pipe.generate(prompts, max_new_tokens=12)
    model.steps.clear()
    result = pipe.generate(prompts, max_new_tokens=12, speculation=PromptLookup(3))
    assert result.token_ids == plain.token_ids
    assert any(min(counts) < max(counts) for counts, logits in model.steps if logits == "all")


def test_a_draft_model_that_is_the_model_is_always_right() -> None:
    model = load_model(default_folder())
    draft = load_model(default_folder())
    config = GenerationConfig(max_new_tokens=12, temperature=0.8, seed=1)

    def run(speculation: Any) -> tuple[list[list[int]], Any]:
        hooks = GenerationHooks(speculation=speculation)
        generator = ModelGenerator(model, config, num_sequences=2, capacity=64, hooks=hooks)
        generator.append_tokens([[11, 12, 13], [21, 22]])
        return finish(generator), generator.metrics

    plain, _ = run(None)
    guessed, metrics = run(DraftModel(draft, 3))
    assert guessed == plain
    assert metrics.acceptance_rate == 1
    draft.close()
    model.close()


def test_prompt_lookup() -> None:
    def look_up(tokens: list[int], limit: int = 9, **arguments: int) -> list[int]:
        return PromptLookup(**arguments).propose([DraftRequest(0, np.array(tokens), 1, limit)], None)[0]  # type: ignore[arg-type]

    assert look_up([1, 2, 3, 4, 9, 1, 2, 3]) == [4, 9, 1, 2, 3]
    assert look_up([1, 2, 3, 4, 9, 1, 2, 3], limit=2) == [4, 9]
    assert look_up([1, 2, 3, 4, 9, 1, 2, 3], num_drafts=1) == [4]
    assert look_up([5, 3, 7, 1, 3, 8, 2, 1, 3], limit=1) == [8]  # the longer match counts
    assert look_up([1, 1, 1], limit=2) == [1]
    assert look_up([1, 2, 3]) == []
    assert look_up([1]) == []


@pytest.mark.parametrize("capability", [Capability.LOGITS_ALL, Capability.CHUNKED_PREFILL, Capability.REWIND])
def test_a_model_must_be_able_to_check_drafts(capability: Capability) -> None:
    model = FakeModel(258, capabilities=ALL_CAPABILITIES - {capability})
    pipe = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    with pytest.raises(UnsupportedCapabilityError) as caught:
        pipe.generate("a", max_new_tokens=2, speculation=PromptLookup())
    assert caught.value.capability == capability
    assert model.open_caches == []


def test_what_is_refused() -> None:
    pipe = TextGenerationPipeline.from_parts(FakeModel(258), ByteTokenizer())
    with pytest.raises(InvalidInputError, match="300 tokens and the model 258"):
        pipe.generate("a", max_new_tokens=2, speculation=DraftModel(FakeModel(300)))
    with pytest.raises(UnsupportedCapabilityError, match="num_beams"):
        pipe.generate("a", num_beams=2, speculation=PromptLookup())
    with pytest.raises(UnsupportedCapabilityError, match="wraps around"):
        TextGenerationPipeline.from_parts(FakeModel(258, window=4), ByteTokenizer()).generate(
            "a", max_new_tokens=2, speculation=PromptLookup()
        )
    for wrong in ({"num_drafts": 0}, {"max_ngram": 0}):
        with pytest.raises(InvalidInputError, match="not legal"):
            PromptLookup(**wrong)
