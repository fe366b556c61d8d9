# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The decode loop over a model whose logits show every mistake in its cache."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import (
    CacheOverflowError,
    Capability,
    GenerationConfig,
    InvalidInputError,
    UnsupportedCapabilityError,
    generation,
)
from genai_iface.generation import ModelGenerator
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel, speaks

# A busy machine is slow; that is not a finding.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


FIELDS = {field.name for field in dataclasses.fields(GenerationConfig)}
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13]]


def expected(model: FakeModel, prompt: list[int], num_tokens: int) -> list[int]:
    """Greedy decoding without a cache, a batch or a chunk."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(model.logits_after(tokens).argmax()))
    return tokens[len(prompt) :]


def run(generator: ModelGenerator[Any]) -> list[list[int]]:
    """Generates to the end; returns the new tokens of each sequence."""
    new: dict[int, list[int]] = {}
    while not generator.is_done():
        generator.generate_next_token()
        for index, token in enumerate(generator.get_next_tokens()):
            new.setdefault(index, []).extend([] if token is None else [token])
    return [new[index] for index in sorted(new)]


def make(model: FakeModel, prompts: list[list[int]] | None = None, **arguments: Any) -> ModelGenerator[Any]:
    prompts = PROMPTS if prompts is None else prompts
    fields = {name: arguments.pop(name) for name in FIELDS & arguments.keys()}
    generator = ModelGenerator(
        model, GenerationConfig(**{"max_new_tokens": 6, **fields}), num_sequences=len(prompts), **arguments
    )
    generator.append_tokens(prompts)
    return generator


@pytest.mark.parametrize("chunk", [1, 2, 3, 512])
@pytest.mark.parametrize(
    "without",
    [
        (),
        (Capability.RAGGED,),
        (Capability.BATCH, Capability.RAGGED),
        (Capability.CHUNKED_PREFILL,),
        (Capability.CHUNKED_PREFILL, Capability.RAGGED),
    ],
    ids=lambda names: "-".join(map(str, names)) or "all",
)
def test_a_ragged_batch_gives_what_each_prompt_gives_alone(chunk: int, without: tuple[str, ...]) -> None:
    model = FakeModel(capabilities=ALL_CAPABILITIES - set(without))
    assert run(make(model, prefill_chunk_size=chunk)) == [expected(model, prompt, 6) for prompt in PROMPTS]


def test_a_circular_model_gets_a_cache_per_sequence_and_no_padding() -> None:
    model = FakeModel(window=4)
    assert run(make(model)) == [expected(model, prompt, 6) for prompt in PROMPTS]
    assert [cache.batch_size for cache in model.caches] == [1, 1, 1, 1]


def test_prompts_of_all_lengths_run_in_one_step_and_done_rows_are_idle() -> None:
    model = FakeModel(script=lambda tokens: 99 if len(tokens) >= 8 else 50)
    new = run(make(model, eos_token_ids=[99], max_new_tokens=9))
    assert new == [[50] * 5 + [99], [50] * 7 + [99], [50, 99], [50] * 6 + [99]]
    assert model.steps[0] == ((3, 1, 7, 2), "last")
    assert model.steps[1] == ((1, 1, 1, 1), "last")
    assert model.steps[2] == ((1, 1, 0, 1), "last")
    assert model.steps[-1] == ((0, 1, 0, 0), "last")
    assert len(model.steps) == 8


def test_chunks_ask_for_logits_only_where_a_prompt_ends() -> None:
    model = FakeModel()
    generator = make(model, [[1] * 5, [2] * 11], prefill_chunk_size=4, max_new_tokens=1)
    run(generator)
    assert model.steps == [((4, 4), "none"), ((1, 4), "last"), ((0, 3), "last")]


def test_the_last_token_waits_for_the_next_step() -> None:
    model = FakeModel()
    generator = make(model, [[1, 2, 3]])
    generator.generate_next_token()
    assert generator.token_count() == 4
    assert model.caches[0].lengths.tolist() == [3]
    generator.generate_next_token()
    assert model.caches[0].rows[0] == generator.get_sequence(0)[:-1]


@settings(RELAXED)
@given(prompts=st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=9), min_size=1, max_size=4), data=st.data())
def test_any_history_of_changes_gives_what_the_tokens_give(prompts: list[list[int]], data: st.DataObject) -> None:
    """Append, generate and rewind at random; the sequences must be as if computed from scratch."""
    capabilities = ALL_CAPABILITIES - data.draw(
        st.sampled_from([set(), {Capability.RAGGED}, {Capability.CHUNKED_PREFILL}])
    )
    window = data.draw(st.sampled_from([None, 5]))
    model = FakeModel(capabilities=capabilities, window=window)
    chunk = data.draw(st.integers(1, 6))
    generator = ModelGenerator(model, num_sequences=len(prompts), prefill_chunk_size=chunk)
    generator.append_tokens(prompts)
    mirror = [list(prompt) for prompt in prompts]
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["generate", "generate", "append", "rewind", "look"]))
        if action == "generate":
            generator.generate_next_token()
            for tokens in mirror:
                tokens.append(int(model.logits_after(tokens).argmax()))
        elif action == "append":
            more = [data.draw(st.lists(st.integers(0, 299), max_size=4)) for _ in mirror]
            generator.append_tokens(more)
            for tokens, new in zip(mirror, more, strict=True):
                tokens.extend(new)
        elif action == "rewind":
            lengths = [data.draw(st.integers(1, len(tokens))) for tokens in mirror]
            generator.rewind_to(lengths)
            mirror = [tokens[:length] for tokens, length in zip(mirror, lengths, strict=True)]
        else:
            logits = generator.get_logits()
            for row, tokens in zip(logits, mirror, strict=True):
                assert np.array_equal(row, model.logits_after(tokens))
        assert [generator.get_sequence(index) for index in range(len(mirror))] == mirror


def test_rewinding_keeps_the_cache() -> None:
    model = FakeModel()
    generator = make(model, [list(range(20))])
    first = run(generator)[0]
    generator.rewind_to(22)
    assert generator.finish_reasons == (None,)
    model.steps.clear()
    assert run(generator)[0] == first[2:]
    # Only the last token of what was kept runs again, for its logits.
    assert model.steps[0] == ((1,), "last")


def test_rewinding_a_wrapped_circular_cache_runs_the_tokens_again() -> None:
    model = FakeModel(window=4)
    generator = make(model, [list(range(20))])
    first = run(generator)[0]
    generator.rewind_to(21)
    model.steps.clear()
    assert run(generator)[0] == first[1:]
    assert model.steps[0] == ((21,), "last")


def test_rewinding_restores_limits_and_draws() -> None:
    model = FakeModel()
    fields = {"temperature": 2.0, "seed": 5, "presence_penalty": 2.0, "max_new_tokens": 8}
    generator = make(model, [[1, 2]], **fields)
    first = run(generator)[0]
    generator.rewind_to(5)
    assert run(generator)[0] == first[3:]
    assert generator.finish_reasons == ("length",)
    # A turn that is forgotten altogether leaves no trace either.
    generator.append_tokens([7, 7, 7])
    generator.generate_next_token()
    generator.rewind_to(5)
    assert run(generator)[0] == first[3:]


def test_draws_do_not_depend_on_the_rest_of_the_batch() -> None:
    model = FakeModel()
    fields = {"temperature": 1.5, "top_k": 40, "seed": 3, "max_new_tokens": 8}
    together = run(make(model, [[1, 2], [3], [4]], **fields))
    others = run(make(model, [[1, 2], [9, 9, 9, 9, 9], [4], [5]], **fields))
    assert together[0] == others[0]
    assert together[2] == others[2]
    assert together[1] != others[1]


def test_seeds() -> None:
    model = FakeModel()
    fields = {"temperature": 1.5, "max_new_tokens": 12}
    assert run(make(model, seed=1, **fields)) == run(make(model, seed=1, **fields))
    assert run(make(model, seed=1, **fields)) != run(make(model, seed=2, **fields))
    fresh = make(model, **fields)
    assert run(fresh) == run(make(model, seed=fresh.seed, **fields))


def test_rewinding_into_the_prompt_counts_from_there() -> None:
    model = FakeModel()
    generator = make(model, [[1, 2, 3, 4, 5]], max_new_tokens=4, frequency_penalty=2.0)
    run(generator)
    generator.rewind_to(3)
    short = make(model, [[1, 2, 3]], max_new_tokens=4, frequency_penalty=2.0)
    assert run(generator) == run(short)


def test_rewinding_forgets_log_probabilities() -> None:
    generator = make(FakeModel(), [[1, 2]], logprobs=0)
    run(generator)
    before = generator.get_logprobs(0)
    generator.rewind_to(4)
    assert generator.get_logprobs(0) == before[:2]
    run(generator)
    assert generator.get_logprobs(0) == before


# How sequences end


def test_stop_tokens_end_and_are_part_of_the_sequence() -> None:
    model = FakeModel(script=speaks("ab"))
    generator = make(model, [[1]], eos_token_ids=[257])
    assert run(generator) == [[97, 98, 257]]
    assert generator.finish_reasons == ("stop",)


@pytest.mark.parametrize(
    ("fields", "count", "reason"),
    [
        ({"eos_token_id": 98}, 2, "stop"),
        ({"eos_token_id": (5, 98)}, 2, "stop"),
        ({"stop_token_ids": [97]}, 1, "stop"),
        ({"ignore_eos": True}, 6, "length"),
        ({"ignore_eos": True, "stop_token_ids": [99]}, 3, "stop"),
        ({"max_length": 4}, 3, "length"),
        ({"max_length": 4, "max_new_tokens": 2}, 2, "length"),
        ({"max_length": 1}, 0, "length"),
        ({"max_new_tokens": 0}, 0, "length"),
        ({"max_new_tokens": None}, 4, "stop"),
        ({"stop_strings": ["bc"]}, 3, "stop"),
    ],
)
def test_what_ends_a_sequence(fields: dict[str, Any], count: int, reason: str) -> None:
    model = FakeModel(script=speaks("abc"))
    generator = make(model, [[1]], eos_token_ids=[257], tokenizer=ByteTokenizer(), **fields)
    run(generator)
    assert generator.token_count() - 1 == count
    assert generator.finish_reasons == (reason,)


def test_min_new_tokens() -> None:
    model = FakeModel(script=speaks("a"))
    generator = make(model, [[1]], eos_token_ids=[257], min_new_tokens=4)
    new = run(generator)[0]
    assert 257 not in new[:4]


def test_the_cache_bounds_the_sequence() -> None:
    model = FakeModel(context_length=10)
    generator = make(model, [[1] * 7], max_new_tokens=None)
    assert len(run(generator)[0]) == 3
    assert generator.finish_reasons == ("length",)


def test_a_prompt_beyond_the_cache_changes_nothing() -> None:
    model = FakeModel()
    generator = ModelGenerator(model, num_sequences=2, capacity=4)
    with pytest.raises(CacheOverflowError) as caught:
        generator.append_tokens([[1], [1] * 5])
    assert (caught.value.row, caught.value.needed, caught.value.capacity) == (1, 5, 4)
    assert generator.token_count(0) == generator.token_count(1) == 0


def test_a_turn_after_stop_goes_on() -> None:
    model = FakeModel(script=lambda tokens: 99 if len(tokens) % 4 == 3 else 50)
    generator = make(model, [[1]], eos_token_ids=[99])
    assert run(generator) == [[50, 50, 99]]
    generator.append_tokens([7])
    assert generator.finish_reasons == (None,)
    assert run(generator) == [[50, 50, 99]]
    assert generator.get_sequence(0) == [1, 50, 50, 99, 7, 50, 50, 99]


@pytest.mark.parametrize("without", [Capability.CHUNKED_PREFILL, Capability.RAGGED])
def test_a_second_turn_without_a_capability(without: str) -> None:
    model = FakeModel(capabilities=ALL_CAPABILITIES - {without})
    generator = make(model, [[1, 2], [3]], max_new_tokens=2)
    run(generator)
    generator.append_tokens([[5, 6, 7], [8, 9]])
    run(generator)
    for index, (first, second) in enumerate([([1, 2], [5, 6, 7]), ([3], [8, 9])]):
        tokens = [*first, *expected(model, first, 2), *second]
        assert generator.get_sequence(index) == [*tokens, *expected(model, tokens, 2)]


def test_only_the_sequences_that_get_tokens_go_on() -> None:
    model = FakeModel()
    generator = make(model, [[1], [2]], max_new_tokens=2)
    run(generator)
    generator.append_tokens([[], [5]])
    assert generator.finish_reasons == ("length", None)
    run(generator)
    assert [generator.token_count(0), generator.token_count(1)] == [3, 6]


# Cancelling


def test_cancel_between_tokens() -> None:
    generator = make(FakeModel())
    generator.generate_next_token()
    generator.cancel()
    assert generator.is_done()
    assert generator.finish_reasons == ("cancelled",) * 4


def test_cancel_keeps_the_reasons_that_there_are() -> None:
    model = FakeModel(script=lambda tokens: 99 if tokens[0] == 1 else 50)
    generator = make(model, [[1], [2]], eos_token_ids=[99])
    generator.generate_next_token()
    generator.cancel()
    assert generator.finish_reasons == ("stop", "cancelled")


def test_cancel_from_another_thread_is_noticed_between_chunks() -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait(step: int) -> None:
        if step == 2:
            started.set()
            assert go_on.wait(10)

    model = FakeModel(on_step=wait)
    generator = make(model, [list(range(100))], prefill_chunk_size=10)
    worker = threading.Thread(target=generator.generate_next_token)
    worker.start()
    assert started.wait(10)
    generator.cancel()
    go_on.set()
    worker.join(10)
    assert not worker.is_alive()
    assert len(model.steps) == 2
    assert generator.finish_reasons == ("cancelled",)
    assert generator.get_next_tokens() == [None]
    # What has run is kept, and the sequence may go on.
    generator.append_tokens([5])
    generator.generate_next_token()
    assert generator.get_next_tokens() == [expected(model, [*range(100), 5], 1)[0]]
    assert sum(counts[0] for counts, _ in model.steps) == 101


def test_max_time_is_noticed_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def tick(step: int) -> None:
        now[0] += 1

    model = FakeModel(on_step=tick)
    generator = make(model, [list(range(100))], prefill_chunk_size=10, max_time=3)
    generator.generate_next_token()
    assert generator.finish_reasons == ("time",)
    assert len(model.steps) == 3
    model = FakeModel(on_step=tick)
    generator = make(model, [[1]], max_time=3)
    assert len(run(generator)[0]) == 3
    assert generator.finish_reasons == ("time",)


# Logits


def test_logits_can_be_read_and_replaced_once() -> None:
    model = FakeModel()
    generator = make(model, [[1], [2]])
    logits = generator.get_logits()
    assert logits.dtype == np.float32
    assert np.array_equal(logits, [model.logits_after([1]), model.logits_after([2])])
    wanted = np.zeros_like(logits)
    wanted[0, 42] = wanted[1, 43] = 1
    generator.set_logits(wanted)
    assert np.array_equal(generator.get_logits(), wanted)
    generator.generate_next_token()
    assert generator.get_next_tokens() == [42, 43]
    generator.generate_next_token()
    assert generator.get_next_tokens() == [expected(model, [1, 42], 1)[0], expected(model, [2, 43], 1)[0]]
    assert len(model.steps) == 2


def test_the_logits_given_out_are_a_copy() -> None:
    generator = make(FakeModel(), [[1]])
    generator.get_logits()[:] = 0
    assert generator.get_logits().any()
    generator.set_logits(np.ones((1, 300)))
    generator.get_logits()[:] = 0
    assert generator.get_logits().all()


def test_logprobs() -> None:
    model = FakeModel()
    generator = make(model, [[1, 2]], logprobs=2, temperature=1.5, seed=1)
    new = run(generator)[0]
    found = generator.get_logprobs(0)
    assert [entry.token_id for entry in found] == new
    tokens = [1, 2]
    for entry in found:
        logits = model.logits_after(tokens).astype(np.float64)
        assert entry.logprob == pytest.approx(logits[entry.token_id] - np.log(np.exp(logits).sum()), abs=1e-9)
        assert entry.top[0][0] == logits.argmax()
        tokens.append(entry.token_id)


# What is refused


def test_nothing_to_do_is_an_error() -> None:
    generator = ModelGenerator(FakeModel(), num_sequences=2)
    with pytest.raises(InvalidInputError, match="Sequence 0 has no tokens"):
        generator.generate_next_token()
    generator.append_tokens([[1], []])
    with pytest.raises(InvalidInputError, match="Sequence 1 has no tokens"):
        generator.generate_next_token()
    done = make(FakeModel(), [[1]], max_new_tokens=0)
    with pytest.raises(InvalidInputError, match="done"):
        done.generate_next_token()


@pytest.mark.parametrize(
    "tokens", [[[1]], [1, 2], [[1], [2], [3]], [[1], [300]], [[1], [-1]], [[1], [1.5]], [[1], [[1]]]]
)
def test_wrong_tokens_change_nothing(tokens: Any) -> None:
    generator = ModelGenerator(FakeModel(), num_sequences=2)
    with pytest.raises(InvalidInputError):
        generator.append_tokens(tokens)
    assert generator.token_count(0) == 0


@pytest.mark.parametrize("length", [-1, 99, [1], [1, 99]])
def test_wrong_lengths_change_nothing(length: Any) -> None:
    generator = make(FakeModel(), [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(InvalidInputError):
        generator.rewind_to(length)
    assert generator.get_sequence(1) == [4, 5, 6]


def test_wrong_logits_are_refused() -> None:
    generator = make(FakeModel(), [[1]])
    with pytest.raises(InvalidInputError, match="shape"):
        generator.set_logits(np.zeros(300))


def test_beams_are_refused_token_by_token() -> None:
    with pytest.raises(UnsupportedCapabilityError, match="num_beams"):
        ModelGenerator(FakeModel(), GenerationConfig(num_beams=2))


@pytest.mark.parametrize(
    "fields", [{"diversity_penalty": 0.5}, {"length_penalty": 0.5}, {"early_stopping": True}], ids=str
)
def test_what_belongs_to_beam_search_is_refused_without_it(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=rf"({'|'.join(fields)})="):
        ModelGenerator(FakeModel(), GenerationConfig(**fields))


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(InvalidInputError, match="tokenizer"):
        ModelGenerator(FakeModel(), GenerationConfig(stop_strings=["x"]))


def test_every_configuration_field_is_used_or_refused() -> None:
    """A field that nothing reads would be ignored silently."""
    folder = Path(generation.__file__).parent
    sources = "".join(path.read_text() for path in [*folder.rglob("*.py"), folder.parent / "pipeline.py"])
    for field in dataclasses.fields(GenerationConfig):
        name = "eos_token_ids" if field.name == "eos_token_id" else field.name
        name = "samples" if name == "do_sample" else name
        assert f"config.{name}" in sources or f'"{name}":' in sources, field.name


def test_close_frees_every_cache() -> None:
    for capabilities in (ALL_CAPABILITIES, ALL_CAPABILITIES - {Capability.RAGGED}):
        model = FakeModel(capabilities=capabilities)
        generator = make(model)
        assert model.open_caches
        generator.close()
        assert model.open_caches == []


def test_a_failure_while_making_caches_frees_those_that_were_made() -> None:
    class Exhausted(FakeModel):
        def create_cache(self, **arguments: Any) -> Any:
            if len(self.caches) == 2:
                raise MemoryError
            return super().create_cache(**arguments)

    model = Exhausted(capabilities=ALL_CAPABILITIES - {Capability.RAGGED})
    with pytest.raises(MemoryError):
        make(model)
    assert len(model.caches) == 2
    assert model.open_caches == []
