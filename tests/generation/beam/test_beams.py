# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Beam search against Transformers on the same logits, and against plain search where Transformers has none.

Transformers 5 has no groups of beams any more (they moved out of the library), so those are compared with
a search written out here that keeps no cache and looks at every continuation.
"""

from __future__ import annotations

import itertools
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
)
from genai_iface.generation._request import GenerationRequest
from genai_iface.generation.beam.search import BeamSearch
from genai_iface.generation.hooks import GenerationHooks
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel
from tests.marks import examples

EOS = 2


def search(model: FakeModel, prompts: list[list[int]], *, eos: tuple[int, ...] = (EOS,), **fields: Any) -> BeamSearch:
    config = GenerationConfig(eos_token_id=eos, **fields)
    configs = [config] * len(prompts)
    request = GenerationRequest(prompts=prompts, configs=configs, hooks=GenerationHooks(), capacity=64)
    beams = BeamSearch(model, request, prefill_chunk_size=3)
    while not beams.has_ended:
        beams.step()
    assert model.open_caches == []
    return beams


def tokens_of(beams: BeamSearch, index: int = 0) -> list[list[int]]:
    return [found.token_ids for found in beams.hypotheses(index)]


class Oracle:
    """Transformers' beam search over the logits of a fake model."""

    def __init__(self, model: FakeModel) -> None:
        import torch
        from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
        from transformers.modeling_outputs import CausalLMOutput

        class Config(PretrainedConfig):
            model_type = "fake"

        class Network(PreTrainedModel, GenerationMixin):
            config_class = Config

            def __init__(self, config: Any) -> None:
                super().__init__(config)
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]:
                return {"input_ids": input_ids}

            def forward(self, input_ids: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
                rows = [model.logits_after(row) for row in input_ids.tolist()]
                return CausalLMOutput(logits=torch.tensor(np.stack(rows))[:, None])

        self.network = Network(Config(vocab_size=model.spec.vocab_size, is_encoder_decoder=False)).eval()

    def search(self, prompt: list[int], eos: tuple[int, ...], **fields: Any) -> tuple[list[list[int]], list[float]]:
        import torch

        output = self.network.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            use_cache=False,
            pad_token_id=0,
            eos_token_id=list(eos),
            output_scores=True,
            return_dict_in_generate=True,
            **fields,
        )
        found = []
        for row in output.sequences[:, len(prompt) :].tolist():
            end = next((at + 1 for at, token in enumerate(row) if token in eos), len(row))
            found.append(row[:end])
        return found, output.sequences_scores.tolist()


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Unfeasible length constraints")  # a limit below min_new_tokens is tried too
@settings(deadline=None, max_examples=examples(60, 20))
@given(
    num_beams=st.integers(2, 5),
    length_penalty=st.sampled_from([1.0, 0.0, -1.0, 0.5, 2.5]),
    early_stopping=st.sampled_from([False, True, "never"]),
    limit=st.integers(1, 12),
    prompts=st.lists(st.lists(st.integers(3, 19), min_size=1, max_size=6), min_size=1, max_size=3),
    eos=st.sampled_from([(EOS,), (EOS, 5, 7)]),
    extra=st.sampled_from([{}, {"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2}, {"min_new_tokens": 4}]),
    data=st.data(),
)
def test_transformers_finds_the_same_sequences(
    num_beams: int,
    length_penalty: float,
    early_stopping: Any,
    limit: int,
    prompts: list[list[int]],
    eos: tuple[int, ...],
    extra: dict[str, Any],
    data: st.DataObject,
) -> None:
    model = FakeModel(20)
    fields = {
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "max_new_tokens": limit,
        "num_return_sequences": data.draw(st.integers(1, num_beams)),
        **extra,
    }
    found = search(model, prompts, eos=eos, **fields)
    oracle = Oracle(model)
    for index, prompt in enumerate(prompts):
        tokens, scores = oracle.search(prompt, eos, **fields)
        assert tokens_of(found, index) == tokens
        assert [one.score for one in found.hypotheses(index)] == pytest.approx(scores, rel=1e-5, abs=1e-5)


def plain(
    model: FakeModel, prompt: list[int], *, size: int, groups: int, penalty: float, limit: int
) -> list[tuple[float, list[int]]]:
    """Groups of beams by looking at every continuation: length_penalty 1, until nothing better can be found."""
    alive: list[list[tuple[float, list[int]]]] = [[(0.0, [])] for _ in range(groups)]
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in range(groups)]
    closed = [False] * groups
    for length in range(1, limit + 1):
        chosen: list[int] = []
        for group in range(groups):
            if closed[group]:
                continue
            every = []
            for (score, tokens), token in itertools.product(alive[group], range(model.spec.vocab_size)):
                logits = model.logits_after([*prompt, *tokens]).astype(np.float64)
                log_prob = logits[token] - np.log(np.exp(logits).sum())
                every.append((score + log_prob - penalty * chosen.count(token), [*tokens, token]))
            every.sort(key=lambda one: -one[0])
            best = every[: 2 * size]
            stops = [one[1][-1] == EOS or length == limit for one in best]
            new = [(score / length, tokens) for (score, tokens), stop in zip(best[:size], stops, strict=False) if stop]
            ended[group] = sorted([*ended[group], *new], key=lambda one: -one[0])[:size]
            alive[group] = [one for one, stop in zip(best, stops, strict=True) if not stop][:size]
            full = len(ended[group]) == size
            closed[group] = not alive[group] or (full and alive[group][0][0] / length <= ended[group][-1][0])
            chosen += [tokens[-1] for _, tokens in alive[group]] if not closed[group] else []
    return sorted((one for group in ended for one in group), key=lambda one: -one[0])


@settings(deadline=None, max_examples=examples(40, 15))
@given(
    size=st.integers(1, 3),
    groups=st.integers(2, 3),
    penalty=st.sampled_from([0.0, 0.7, 5.0]),
    limit=st.integers(1, 7),
    prompt=st.lists(st.integers(3, 19), min_size=1, max_size=4),
)
def test_groups_find_what_a_plain_search_finds(
    size: int, groups: int, penalty: float, limit: int, prompt: list[int]
) -> None:
    model = FakeModel(20)
    found = search(
        model,
        [prompt, [4, 5]],
        num_beams=size * groups,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        max_new_tokens=limit,
        num_return_sequences=size * groups,
    )
    wanted = plain(model, prompt, size=size, groups=groups, penalty=penalty, limit=limit)
    assert tokens_of(found) == [tokens for _, tokens in wanted]
    assert [one.score for one in found.hypotheses(0)] == pytest.approx([score for score, _ in wanted])


def test_diversity_makes_groups_differ() -> None:
    fields = {"num_beams": 3, "num_beam_groups": 3, "num_return_sequences": 3, "max_new_tokens": 4}
    same = tokens_of(search(FakeModel(20), [[9, 9]], **fields))
    diverse = tokens_of(search(FakeModel(20), [[9, 9]], diversity_penalty=50.0, **fields))
    assert same[0] == same[1] == same[2]
    assert len({tokens[0] for tokens in diverse}) == 3


@pytest.mark.parametrize("without", [(), (Capability.RAGGED,), (Capability.CHUNKED_PREFILL,)])
@pytest.mark.parametrize("window", [None, 4])
def test_prompts_do_not_depend_on_each_other(without: tuple[str, ...], window: int | None) -> None:
    prompts = [[5, 6, 7, 8], [9], [10, 11]]
    fields = {"num_beams": 3, "max_new_tokens": 8, "num_return_sequences": 3}
    model = FakeModel(20, capabilities=ALL_CAPABILITIES - set(without), window=window)
    together = search(model, prompts, **fields)
    for index, prompt in enumerate(prompts):
        alone = search(FakeModel(20, window=window), [prompt], **fields)
        assert together.hypotheses(index) == alone.hypotheses(0)


def test_a_prompt_that_is_done_leaves_the_batch() -> None:
    model = FakeModel(20, script=lambda tokens: EOS if tokens[0] == 5 and len(tokens) > 2 else 7)
    search(model, [[5], [6]], num_beams=2, max_new_tokens=8, early_stopping=True)
    widths = [len(counts) for counts, _ in model.steps]
    assert widths[0] == 2
    assert max(widths) == 4
    assert widths[-1] == 2


# In a pipeline


def pipeline_of(**arguments: Any) -> TextGenerationPipeline:
    return TextGenerationPipeline.from_parts(FakeModel(258, **arguments), ByteTokenizer())


def test_a_pipeline_returns_texts_scores_and_log_probabilities() -> None:
    pipe = pipeline_of()
    result = pipe.generate(["ab", "c"], num_beams=4, num_return_sequences=2, max_new_tokens=6, logprobs=1)
    assert len(result.texts) == 4
    assert result.beam_scores is not None
    assert result.logprobs is not None
    for tokens, text, score, entries in zip(
        result.token_ids, result.texts, result.beam_scores, result.logprobs, strict=True
    ):
        assert text == ByteTokenizer().decode(tokens)
        assert [entry.token_id for entry in entries] == tokens
        assert score == pytest.approx(sum(entry.logprob for entry in entries) / len(tokens))
    assert result.beam_scores[0] >= result.beam_scores[1]
    greedy = pipe.generate("ab", max_new_tokens=6, logprobs=0)
    assert greedy.logprobs is not None
    assert result.beam_scores[0] >= sum(entry.logprob for entry in greedy.logprobs[0]) / 6
    assert greedy.beam_scores is None
    assert result.perf_metrics.num_prompt_tokens == 3
    chunks = list(pipe.stream("ab", num_beams=4, max_new_tokens=6))
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [(result.texts[0], "length")]


def test_stop_strings_and_criteria_end_beams() -> None:
    model_arguments = {"script": lambda tokens: (*b"abcd", 257)[min(len(tokens) - 1, 4)]}
    pipe = pipeline_of(**model_arguments)
    plain_text = pipe.generate("1", num_beams=2, early_stopping=True)
    assert (plain_text.text, plain_text.finish_reasons, plain_text.token_ids[0][-1]) == ("abcd", ["stop"], 257)
    stopped = pipe.generate("1", num_beams=2, stop="bc", max_new_tokens=8, early_stopping=True)
    assert (stopped.text, stopped.finish_reasons) == ("a", ["stop"])
    ended = pipe.generate("1", num_beams=2, stopping_criteria=[lambda tokens, text: text == "ab"], early_stopping=True)
    assert ended.text == "ab"


def test_limits_cancelling_and_closing() -> None:
    pipe = pipeline_of()
    nothing = pipe.generate("ab", num_beams=2, max_new_tokens=0, num_return_sequences=2)
    assert (nothing.texts, nothing.finish_reasons) == (["", ""], ["length", "length"])
    model = pipe.model
    assert isinstance(model, FakeModel)
    start = len(model.steps)
    model._on_step = lambda step: pipe.cancel() if step == start + 3 else None
    result = pipe.generate("ab", num_beams=3, max_new_tokens=20, num_return_sequences=2)
    assert result.finish_reasons == ["cancelled", "cancelled"]
    assert [len(tokens) for tokens in result.token_ids] == [3, 3]
    model._on_step = None
    assert model.open_caches == []
    pipe.cancel()
    assert pipe.generate("ab", num_beams=2, max_new_tokens=4).finish_reasons == ["length"]


@pytest.mark.parametrize("capability", [Capability.REORDER, Capability.BATCH])
def test_a_model_must_be_able_to_reorder(capability: Capability) -> None:
    pipe = pipeline_of(capabilities=ALL_CAPABILITIES - {capability})
    with pytest.raises(UnsupportedCapabilityError) as caught:
        pipe.generate("a", num_beams=2)
    assert caught.value.capability == capability


def test_what_cannot_be_meant() -> None:
    pipe = pipeline_of()
    with pytest.raises(InvalidInputError, match="half of the 258"):
        pipe.generate("a", num_beams=200, max_new_tokens=2)
    with pytest.raises(InvalidInputError, match="several groups"):
        pipe.generate("a", num_beams=2, diversity_penalty=1.0)
    with pytest.raises(InvalidInputError, match="ask for beam search and others"):
        pipe.generate(["a", "b"], [GenerationConfig(num_beams=2), GenerationConfig()])
    with pytest.raises(UnsupportedCapabilityError, match="echo"):
        pipe.generate("a", num_beams=2, echo=True)
