# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Everything that generation does over models that keep states, against greedy choices from whole sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai_iface import Capability, GenerationConfig, TextGenerationPipeline, UnsupportedCapabilityError
from genai_iface.generation import DraftModel, ModelGenerator, PromptLookup
from tests.marks import BACKENDS
from tests.states.models import KINDS, StateOracle, oracle_of, write_state_folder

PROMPTS = [[5, 6, 7, 8, 9, 10], [40, 41], [5, 6, 5, 6, 5, 6, 5]]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["gated_delta", "alone"])
def opened(
    request: pytest.FixtureRequest, backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TextGenerationPipeline, StateOracle]]:
    mixers = KINDS[request.param]
    folder = write_state_folder(tmp_path_factory.mktemp("model"), mixers, max_positions=200)
    with TextGenerationPipeline(folder, backend=backend) as pipeline:
        yield pipeline, oracle_of(folder, mixers)


def greedy(oracle: StateOracle, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(oracle.logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def test_a_batch_of_different_lengths(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    pipeline, oracle = opened
    result = pipeline.generate(PROMPTS, max_new_tokens=8, ignore_eos=True)
    assert result.token_ids == [greedy(oracle, prompt, 8) for prompt in PROMPTS]
    assert result.perf_metrics.num_rerun_tokens == 0


def test_speculation_gives_the_same(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    """Drafts that are refused go back to where their step began; what was accepted runs again."""
    pipeline, oracle = opened
    prompts = [PROMPTS[2], PROMPTS[0] * 2]
    result = pipeline.generate(prompts, max_new_tokens=12, ignore_eos=True, speculation=PromptLookup(num_drafts=4))
    assert result.token_ids == [greedy(oracle, prompt, 12) for prompt in prompts]
    metrics = result.perf_metrics
    assert metrics.num_drafted_tokens > 0
    assert metrics.num_rerun_tokens <= 5 * metrics.num_drafted_tokens


def test_a_beam_search_moves_states(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    """The best of all continuations of two tokens, found by hand; as many beams as there are tokens see all."""
    pipeline, oracle = opened
    result = pipeline.generate(PROMPTS[0], max_new_tokens=2, num_beams=16, ignore_eos=True)
    first = log_softmax(oracle.logits(PROMPTS[0])[-1])
    best = max(
        ((first[a] + (second := log_softmax(oracle.logits([*PROMPTS[0], a])[-1])).max(), [a, int(second.argmax())]))
        for a in np.argsort(first)[-16:].tolist()
    )
    assert result.token_ids == [best[1]]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def test_a_generator_goes_back(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    pipeline, oracle = opened
    generator: Any = ModelGenerator(pipeline.model, GenerationConfig(max_new_tokens=9, ignore_eos=True), capacity=40)
    generator.append_tokens(PROMPTS[0])
    for _ in range(6):
        generator.generate_next_token()
    generator.rewind_to(8)
    generator.append_tokens([3, 4])
    generator.generate_next_token()
    tokens = PROMPTS[0] + greedy(oracle, PROMPTS[0], 2) + [3, 4]
    assert generator.get_sequence(0) == tokens + greedy(oracle, tokens, 1)
    assert generator.metrics.num_rerun_tokens == 7
    generator.close()


def test_a_conversation_runs_new_tokens_only(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    pipeline, _ = opened
    with pipeline.chat(capacity=190) as chat:
        counts = []
        for text in ("a", "b", "c"):
            chat.send(text, max_new_tokens=2, ignore_eos=True)
            metrics = chat.perf_metrics
            counts.append((metrics.num_prompt_tokens, metrics.num_reused_tokens))
            assert metrics.num_rerun_tokens == 0
        answers = [message["content"] for message in chat.messages if message["role"] == "assistant"]
        # The last message changes: what was before it does not run again.
        chat.edit(-2, "d", max_new_tokens=2, ignore_eos=True)
        assert chat.perf_metrics.num_reused_tokens == counts[2][1]
        changed = chat.edit(-2, "c", max_new_tokens=2, ignore_eos=True)
    (first, none), (second, reused), (_, more) = counts
    assert none == 0
    # Where answers come back from their text as they were, all but their last token has run.
    assert reused == first + 1 or reused <= first
    assert more > reused or second > reused
    assert changed == answers[2]


def test_a_saved_prompt(opened: tuple[TextGenerationPipeline, StateOracle], tmp_path: Path) -> None:
    pipeline, oracle = opened
    path = tmp_path / "prompt.safetensors"
    pipeline.save_prefix(PROMPTS[0], path)
    prompts = [PROMPTS[0] + [9, 9], PROMPTS[0] + [11]]
    result = pipeline.generate(prompts, max_new_tokens=4, ignore_eos=True, prefix=path)
    assert result.token_ids == [greedy(oracle, prompt, 4) for prompt in prompts]
    assert result.perf_metrics.num_reused_tokens == 2 * len(PROMPTS[0])


def test_a_scheduler_gives_what_generate_gives(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    """Slots that are taken again begin with empty states."""
    pipeline, oracle = opened
    with pipeline.scheduler(slots=2, capacity=40) as scheduler:
        handles = [scheduler.submit(prompt, max_new_tokens=5, ignore_eos=True) for prompt in (*PROMPTS, PROMPTS[0])]
        results = [handle.result() for handle in handles]
    wanted = [greedy(oracle, prompt, 5) for prompt in (*PROMPTS, PROMPTS[0])]
    assert [result.token_ids[0] for result in results] == wanted


class Mistaken:
    """A model that counts the tokens which run on it, and whose logits are wrong after every third token of a row."""

    def __init__(self, model: Any, without: frozenset[str] = frozenset()) -> None:
        self.model, self.num_ran = model, 0
        self.capabilities = model.capabilities - without

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def forward(self, input_ids: Any, cache: Any, /, *, counts: Any = None, logits: Any = "last") -> Any:
        self.num_ran += int(np.size(input_ids) if counts is None else np.sum(counts))
        got = self.model.forward(input_ids, cache, counts=counts, logits=logits)
        return np.where((cache.lengths % 3 == 0)[:, None, None], -got, got)


def test_a_draft_model_with_states(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    """What it drafts wrongly costs it the accepted tokens once more, and never the prompt."""
    pipeline, oracle = opened
    prompts, count = [PROMPTS[2] * 3, PROMPTS[0] * 2], 16
    draft: Any = Mistaken(pipeline.model)
    speculation = DraftModel(draft, num_drafts=4)
    result = pipeline.generate(prompts, max_new_tokens=count, ignore_eos=True, speculation=speculation)
    assert result.token_ids == [greedy(oracle, prompt, count) for prompt in prompts]
    metrics = result.perf_metrics
    assert metrics.num_drafted_tokens > metrics.num_accepted_tokens > 0
    # The prompts once; a round runs its drafts but the last, what it chose, and what was accepted in the one before.
    runs = metrics.num_drafted_tokens + len(prompts) * count + metrics.num_accepted_tokens
    assert sum(map(len, prompts)) < draft.num_ran <= sum(map(len, prompts)) + runs


def test_a_model_as_its_own_draft(opened: tuple[TextGenerationPipeline, StateOracle]) -> None:
    """Everything is accepted."""
    pipeline, oracle = opened
    draft = DraftModel(pipeline.model, num_drafts=3)
    result = pipeline.generate(PROMPTS[0], max_new_tokens=12, ignore_eos=True, speculation=draft)
    assert result.token_ids == [greedy(oracle, PROMPTS[0], 12)]
    assert result.perf_metrics.num_accepted_tokens == result.perf_metrics.num_drafted_tokens > 0


def test_a_draft_model_with_states_and_no_checkpoints_is_refused(
    opened: tuple[TextGenerationPipeline, StateOracle],
) -> None:
    pipeline, _ = opened
    draft: Any = Mistaken(pipeline.model, frozenset({Capability.CHECKPOINT}))
    with pytest.raises(UnsupportedCapabilityError, match="needs checkpoints"):
        pipeline.generate(PROMPTS[0], max_new_tokens=4, speculation=DraftModel(draft))
