# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The backend over OpenVINO GenAI: its verdict, its pipeline, and what it refuses."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from genai_iface import (
    CacheOverflowError,
    GenerationConfig,
    InvalidInputError,
    TextGenerationPipeline,
    UnsupportedCapabilityError,
    UnsupportedModelError,
    load_backend,
)
from genai_iface.conformance import GOLDEN, load_adapter, run_checks

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(find_spec("openvino_genai") is None, reason="openvino-genai is not installed"),
]
FOLDER = GOLDEN / "text/concat-float32"
TEXT = "i \U0001f642!é."


@pytest.mark.slow
def test_its_verdict() -> None:
    run = run_checks(load_adapter("openvino-genai"), seed=5)
    failed = {item.check.id: item.message for item in run.outcomes if item.status == "failed"}
    # Level 3 is about logits, which the runtime does not show: it reaches no level 4 in this profile.
    assert failed
    assert all(name.startswith("L3.") and "shows no logits" in message for name, message in failed.items())
    assert {item.level: item.verdict for item in run.levels} == {0: "conforms", 3: "does_not_reach", 4: "conforms"}
    assert (run.profile, run.form) == ("generator", "concat")
    passed = {item.check.id for item in run.outcomes if item.status == "passed"}
    assert {"L4.greedy.base", "L4.greedy.fresh", "L4.generator.rewind", "L4.stream.concatenation"} <= passed


def test_a_pipeline_by_its_name() -> None:
    with TextGenerationPipeline(FOLDER, backend="openvino-genai") as pipe:
        result = pipe.generate(["H", "!"], max_new_tokens=30)
        assert (result.texts, result.finish_reasons) == ([TEXT, "é."], ["stop", "stop"])
        assert "".join(chunk.text for chunk in pipe.stream("H", stop_strings=["!"])) == "i \U0001f642"
        for fields in ({"typical_p": 0.5}, {"num_beams": 2}, {"regex": "a"}, {"min_new_tokens": 3}):
            with pytest.raises(UnsupportedCapabilityError, match=next(iter(fields))):
                pipe.generate("H", max_new_tokens=2, **fields)  # type: ignore[arg-type]


def test_a_generator_goes_back_and_on_and_can_be_left() -> None:
    backend: Any = load_backend("openvino-genai")
    generator = backend.generator(FOLDER, config=GenerationConfig(), capacity=6)
    with pytest.raises(InvalidInputError, match="nothing to go on from"):
        generator.generate_next_token()
    with pytest.raises(CacheOverflowError):
        generator.append_tokens([1] * 7)
    with pytest.raises(InvalidInputError, match="261 is not in"):
        generator.append_tokens([261])
    generator.append_tokens([72])
    for _ in range(3):
        generator.generate_next_token()
    generator.rewind_to(2)
    while not generator.is_done():
        generator.generate_next_token()
    assert (generator.get_sequence(0), generator.finish_reasons) == ([72, *TEXT.encode()[:5]], ("length",))
    with pytest.raises(UnsupportedCapabilityError, match="no logits"):
        generator.get_logits()
    abandoned = backend.generator(FOLDER, config=GenerationConfig())
    abandoned.append_tokens([72])
    abandoned.generate_next_token()
    thread = abandoned._run._thread
    del abandoned
    thread.join(10)
    assert not thread.is_alive()


def test_other_caches_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="takes 'concat'"):
        load_backend("openvino-genai").generator(GOLDEN / "text/scatter-float32", config=GenerationConfig())  # type: ignore[attr-defined]
