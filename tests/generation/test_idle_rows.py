# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Rows that finish early leave the batch, and nothing else changes."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import Capability, GenerationConfig, TextGenerationPipeline, load_model
from genai_iface.generation import ModelGenerator
from genai_iface.models import default_folder
from tests.fakes import ALL_CAPABILITIES, ByteTokenizer, FakeModel


def finish(generator: ModelGenerator[Any]) -> list[list[int]]:
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(index) for index in range(len(generator.finish_reasons))]


def make(model: Any, limits: list[int], *, drops_finished: bool = True, **arguments: Any) -> ModelGenerator[Any]:
    configs = [GenerationConfig(max_new_tokens=limit) for limit in limits]
    generator = ModelGenerator(model, configs, num_sequences=len(limits), drops_finished=drops_finished, **arguments)
    generator.append_tokens([[5 + index] * (1 + index) for index in range(len(limits))])
    return generator


def test_steps_get_narrower_once_a_quarter_is_idle() -> None:
    model = FakeModel()
    finish(make(model, [1, 2, 9, 3, 9, 9, 9, 4]))
    assert [len(counts) for counts, _ in model.steps] == [8, 8, 6, 6, 4, 4, 4, 4, 4]


def test_a_model_that_cannot_reorder_keeps_its_rows() -> None:
    model = FakeModel(capabilities=ALL_CAPABILITIES - {Capability.REORDER})
    finish(make(model, [1, 4]))
    assert [len(counts) for counts, _ in model.steps] == [2, 2, 2, 2]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limits=st.lists(st.integers(1, 8), min_size=1, max_size=6), data=st.data())
def test_results_are_those_of_idle_rows_in_this_turn_and_the_next(limits: list[int], data: st.DataObject) -> None:
    """Some of the sequences that were dropped go on after a second turn or a rewind."""
    dropped, kept = (make(FakeModel(), limits, drops_finished=drops) for drops in (True, False))
    assert finish(dropped) == finish(kept)
    turns = [data.draw(st.lists(st.integers(0, 299), max_size=3)) for _ in limits]
    if not any(turns):
        turns[0] = [7]
    for generator in (dropped, kept):
        generator.append_tokens(turns)
    assert finish(dropped) == finish(kept)
    lengths = [data.draw(st.integers(1, dropped.token_count(index))) for index in range(len(limits))]
    for generator in (dropped, kept):
        generator.rewind_to(lengths)
    assert finish(dropped) == finish(kept)


def test_a_pipeline_drops_rows() -> None:
    model = FakeModel(258)
    pipeline = TextGenerationPipeline.from_parts(model, ByteTokenizer())
    configs = [GenerationConfig(max_new_tokens=limit) for limit in (2, 6)]
    result = pipeline.generate(["ab", "c"], configs)
    assert [len(counts) for counts, _ in model.steps] == [2, 2, 1, 1, 1, 1]
    alone = [pipeline.generate(prompt, config) for prompt, config in zip(["ab", "c"], configs, strict=True)]
    assert result.texts == [one.text for one in alone]


def test_a_real_cache_gives_the_same_tokens() -> None:
    model = load_model(default_folder())
    limits = [2, 12, 5]
    assert finish(make(model, limits)) == finish(make(model, limits, drops_finished=False))
    model.close()
