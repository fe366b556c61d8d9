# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GenerationConfig: ranges, aliases, files, what asks for sampling."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genai_iface import GenerationConfig, InvalidInputError
from genai_iface.config import ALIASES, GenerationOverrides
from genai_iface.generation import GenerationHooks
from genai_iface.generation.sampling.sampler import make_sampler

# A busy machine is slow; that is not a finding.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


LEGAL: dict[str, list[Any]] = {
    "max_new_tokens": [None, 0, 10],
    "max_length": [None, 1],
    "min_new_tokens": [0, 3],
    "do_sample": [None, True, False],
    "temperature": [0, 0.0, 0.7, 100],
    "top_k": [0, 50],
    "top_p": [1e-9, 1, 1.0],
    "min_p": [0, 1.0],
    "typical_p": [0.2, 1.0],
    "repetition_penalty": [0.1, 1.0, 9],
    "presence_penalty": [-2, 0, 2.0],
    "frequency_penalty": [-2.0, 2],
    "no_repeat_ngram_size": [0, 4],
    "logit_bias": [{}, {3: -1.0}, {"3": 100}],
    "bad_words_ids": [[], [[1], [2, 3]]],
    "json_schema": [None, {"type": "string"}, "{}", True],
    "regex": [None, "[a-z]+"],
    "lark_grammar": [None, "start: /a/"],
    "stop_strings": ["x", ["x", "yz"], []],
    "stop_token_ids": [[], [1, 2]],
    "include_stop_str_in_output": [True],
    "ignore_eos": [True],
    "eos_token_id": [None, 0, [1, 2]],
    "num_beams": [1, 4],
    "num_beam_groups": [1],
    "diversity_penalty": [0.0, 1.5],
    "length_penalty": [-1.0, 0, 2.0],
    "early_stopping": [True, False, "never"],
    "num_return_sequences": [1, 3],
    "logprobs": [None, 0, 5],
    "echo": [True],
    "max_time": [None, 0.1],
    "seed": [None, 0, 2**64 - 1],
}

ILLEGAL: dict[str, list[Any]] = {
    "max_new_tokens": [-1, 1.5, True, "3"],
    "max_length": [0, -1, 2.0],
    "min_new_tokens": [-1, None],
    "do_sample": [1, "yes"],
    "temperature": [-0.1, float("nan"), float("inf"), "hot", None, True, 10**400],
    "top_k": [-1, 1.5],
    "top_p": [0, 1.01, -0.5],
    "min_p": [-0.1, 1.1],
    "typical_p": [0.0, 2],
    "repetition_penalty": [0, -1.0],
    "presence_penalty": [-2.1, 3],
    "frequency_penalty": [-2.1, 3],
    "no_repeat_ngram_size": [-1],
    "logit_bias": [{-1: 1.0}, {1: float("nan")}, {"a": 1.0}, {1.5: 1.0}, [1], {1: "x"}],
    "bad_words_ids": [[[]], [1], [[-1]], 5],
    "json_schema": ["{", "[]", 5, [1], {"a": object()}, "[" * 100_000],
    "regex": ["", 5],
    "lark_grammar": ["", 5],
    "stop_strings": ["", ["a", ""], [1], 5],
    "stop_token_ids": [[-1], ["a"], 5],
    "include_stop_str_in_output": [1, None],
    "ignore_eos": ["no"],
    "eos_token_id": [-1, "x", [1, -1], {}],
    "num_beams": [0],
    "num_beam_groups": [0],
    "diversity_penalty": [-1],
    "length_penalty": [float("inf")],
    "early_stopping": ["always", 1.5],
    "num_return_sequences": [0],
    "logprobs": [-1, True],
    "echo": ["x"],
    "max_time": [0, -1.0],
    "seed": [-1, 2**64, 1.5],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}={value!r:.20}") for name, values in table.items() for value in values]


def test_the_tables_name_every_field() -> None:
    fields = {field.name for field in dataclasses.fields(GenerationConfig)}
    assert fields == LEGAL.keys() == ILLEGAL.keys()


@pytest.mark.parametrize(("name", "value"), cases(LEGAL))
def test_legal_values(name: str, value: Any) -> None:
    config = GenerationConfig(**{name: value})
    again = GenerationConfig.from_dict(config.to_dict())
    assert getattr(again, name) == getattr(config, name)
    assert again.samples == config.samples


@pytest.mark.parametrize(("name", "value"), cases(ILLEGAL))
def test_illegal_values_name_the_field_and_the_range(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=rf"^{name}=.* is not legal\. Legal: .+\."):
        GenerationConfig(**{name: value})


def test_beams_must_fit_together() -> None:
    with pytest.raises(InvalidInputError, match="num_beam_groups=2"):
        GenerationConfig(num_beams=3, num_beam_groups=2)
    with pytest.raises(InvalidInputError, match="num_return_sequences=5"):
        GenerationConfig(num_beams=4, num_return_sequences=5)


def test_the_defaults_are_neutral() -> None:
    config = GenerationConfig()
    assert config.to_dict() == {}
    assert not config.samples
    assert (config.temperature, config.top_k, config.top_p, config.min_p) == (1.0, 0, 1.0, 0.0)


def test_numpy_numbers_become_plain_ones() -> None:
    config = GenerationConfig(seed=np.int64(3), temperature=np.float32(0.5), stop_token_ids=[np.int64(1)])
    assert (type(config.seed), type(config.temperature), type(config.stop_token_ids[0])) == (int, float, int)
    json.dumps(config.to_dict())


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("max_tokens", "max_new_tokens", 5),
        ("rng_seed", "seed", 5),
        ("random_seed", "seed", 5),
        ("stop", "stop_strings", "x"),
    ],
)
def test_aliases(alias: str, name: str, value: Any) -> None:
    assert GenerationConfig().replace(**{alias: value}) == GenerationConfig().replace(**{name: value})
    with pytest.raises(InvalidInputError, match=f"'{name}' is given twice"):
        GenerationConfig().replace(**{alias: value, name: value})


def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInputError, match=r"'top_kk' is not a generation parameter.*top_k"):
        GenerationConfig().replace(top_kk=1)


@pytest.mark.parametrize(
    ("given", "samples"),
    [
        ({}, False),
        ({"temperature": 0.7}, True),
        ({"top_k": 5}, True),
        ({"seed": 0}, True),
        ({"temperature": 0}, False),
        ({"temperature": 0, "top_k": 5}, False),
        ({"do_sample": False, "temperature": 0.7}, False),
        ({"do_sample": True}, True),
        ({"do_sample": True, "temperature": 0}, False),
        ({"repetition_penalty": 2.0}, False),
    ],
)
def test_what_samples(given: dict[str, Any], samples: bool) -> None:
    assert GenerationConfig(**given).samples is samples
    assert GenerationConfig().replace(**given).samples is samples


@pytest.mark.parametrize(
    ("overrides", "samples"),
    [
        ({"temperature": 0.7}, True),
        ({"temperature": 1.0}, True),
        ({"top_p": 0.9}, True),
        ({"seed": 1}, True),
        ({"seed": None}, False),
        ({"top_k": 0, "top_p": 1.0}, False),
        ({"temperature": 0}, False),
        ({"temperature": 0.7, "do_sample": False}, False),
        ({"max_new_tokens": 3}, False),
    ],
)
def test_an_override_that_asks_for_sampling_beats_a_greedy_default(overrides: dict[str, Any], samples: bool) -> None:
    assert GenerationConfig(do_sample=False).replace(**overrides).samples is samples


def test_an_override_of_temperature_0_beats_a_sampling_default() -> None:
    assert not GenerationConfig(do_sample=True, top_k=5).replace(temperature=0).samples
    # It asks for nothing, so a greedy default stays one for later changes.
    assert GenerationConfig(do_sample=False).replace(temperature=0).do_sample is False


def test_copies_and_pickles_are_equal() -> None:
    config = GenerationConfig(logit_bias={1: 2.0}, stop_strings=["a"], temperature=0.5)
    for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert again == config
        assert hash(again) == hash(config)


def test_it_is_read_only() -> None:
    config = GenerationConfig(logit_bias={1: 2.0})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.top_k = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.logit_bias[1] = 3.0  # type: ignore[index]


def test_to_dict_round_trips_through_json() -> None:
    config = GenerationConfig(
        logit_bias={1: 2.0}, bad_words_ids=[[1, 2]], stop_strings="x", eos_token_id=[3], temperature=0.5, logprobs=2
    )
    assert GenerationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# Files


def write(folder: Path, values: Any) -> Path:
    path = folder / "generation_config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return path


def test_a_file_of_hugging_face(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "_from_model_config": True,
            "bos_token_id": 1,
            "do_sample": True,
            "eos_token_id": [2, 3],
            "max_length": 4096,
            "pad_token_id": 0,
            "temperature": 0.6,
            "top_k": None,
            "top_p": 0.9,
            "transformers_version": "5.0.0",
        },
    )
    expected = GenerationConfig(do_sample=True, eos_token_id=(2, 3), max_length=4096, temperature=0.6, top_p=0.9)
    assert GenerationConfig.from_file(path) == expected


def test_a_file_without_do_sample_is_greedy_as_in_hugging_face(tmp_path: Path) -> None:
    config = GenerationConfig.from_file(write(tmp_path, {"temperature": 0.6}))
    assert not config.samples
    assert config.replace(top_p=0.9).samples


@pytest.mark.parametrize("content", ["", "{", "[1]", '"x"', "\ud800".encode("utf-8", "surrogatepass")], ids=repr)
def test_a_broken_file_is_named(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "generation_config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInputError, match=re.escape(str(path))):
        GenerationConfig.from_file(path)


def test_an_illegal_value_in_a_file_names_file_and_field(tmp_path: Path) -> None:
    path = write(tmp_path, {"top_p": 7})
    with pytest.raises(InvalidInputError, match=rf"{re.escape(str(path))}: top_p=7 is not legal"):
        GenerationConfig.from_file(path)


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"eos_token_id": -1}, {"eos_token_id": ()}),
        ({"eos_token_id": [-1, 7]}, {"eos_token_id": (7,)}),
        ({"typical_p": 0.0, "top_k": -1, "top_p": None, "temperature": 0.0}, {"temperature": 0.0}),
    ],
)
def test_what_files_of_models_say_in_their_own_way(
    tmp_path: Path, values: dict[str, Any], fields: dict[str, Any]
) -> None:
    config = GenerationConfig.from_file(write(tmp_path, values))
    assert config == GenerationConfig(do_sample=False, **fields)


@pytest.mark.parametrize("samples", [True, False])
def test_a_top_p_of_0_in_a_file_leaves_the_likeliest_token(tmp_path: Path, samples: bool) -> None:
    config = GenerationConfig.from_file(write(tmp_path, {"top_p": 0.0, "do_sample": samples}))
    assert config.samples is samples
    sampler = make_sampler(config.replace(do_sample=True, seed=3), GenerationHooks(), vocab_size=4)
    logits = np.array([1.0, 1.25, 1.0, 0.9], dtype=np.float32)
    tokens = np.array([0], dtype=np.int64)
    assert {sampler.choose(logits, tokens, step, 0) for step in range(20)} == {1}


@pytest.mark.parametrize("field", [{"typical_p": 0.0}, {"top_k": -1}, {"eos_token_id": "x"}, {"top_p": False}])
def test_what_is_off_beside_greedy_decoding_is_wrong_beside_sampling(tmp_path: Path, field: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(field))):
        GenerationConfig.from_file(write(tmp_path, {**field, "do_sample": True}))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot be read"):
        GenerationConfig.from_file(tmp_path / "none.json")


TEXTS = ("", "x", "never", "7", "-1", "1e5", "\ud800")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS), inner, max_size=3),
    max_leaves=6,
)


@settings(RELAXED)
@given(values=st.dictionaries(st.sampled_from(sorted(LEGAL)), JSON, max_size=4))
def test_no_values_raise_anything_else(values: dict[str, Any]) -> None:
    try:
        config = GenerationConfig.from_dict(values)
    except InvalidInputError:
        return
    assert isinstance(config.samples, bool)
    assert all(isinstance(token, int) for token in config.eos_token_ids)


def test_the_keywords_are_the_fields_and_their_aliases() -> None:
    fields = {field.name for field in dataclasses.fields(GenerationConfig)}
    assert set(GenerationOverrides.__annotations__) == fields | set(ALIASES)
    for name, hint in get_type_hints(GenerationOverrides).items():
        default = getattr(GenerationConfig(), ALIASES.get(name, name))
        # What a field holds by default, its keyword takes: None is legal in both or in neither.
        assert (type(None) in get_args(hint)) == (default is None), name
