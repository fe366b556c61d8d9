# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: generation over models that keep states."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.conformance._context import Context, Subject
from genai_iface.conformance._failure import equal, expect
from genai_iface.conformance.checks.l2._state_models import LINEAR, MODELS, state_subject
from genai_iface.conformance.checks.l4.generator import greedy_tokens
from genai_iface.conformance.registry import check
from genai_iface.protocols import Message

__all__: list[str] = []

_STATE = (Capability.STATE,)
_BATCH = (Capability.STATE, Capability.BATCH, Capability.RAGGED)
_DRAFTS = (Capability.STATE, Capability.REWIND_STEP, Capability.LOGITS_ALL, Capability.CHUNKED_PREFILL)
# What the loop does with a cache is the same for every kind of state: one with keys and values, one without.
_LOOPED = ("delta", "alone")
_TOKENS = ["Generator.generate_next_token.1", "State.11"]


class _Letters:
    """A letter for each of the 40 tokens of the golden models that keep states. Implements ``Tokenizer``."""

    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .:\n"
    vocab_size = len(letters)
    bos_token_id = eos_token_id = None

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]:
        return [self.letters.index(letter) for letter in text]

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = True) -> str:
        return "".join(self.letters[token] for token in token_ids)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_kwargs: Any,
    ) -> str:
        turns = [f"{message['role'][0]}:{message['content']}\n" for message in messages]
        return "".join([*turns, "a:" if add_generation_prompt else ""])


def _pipeline(context: Context, subject: Subject) -> Any:
    """The SDK's pipeline over a model that keeps states, loaded for it."""
    from genai_iface.pipeline import TextGenerationPipeline  # noqa: PLC0415 - levels 0 to 3 need no loop

    model = context.load(subject.golden)
    return context.keep(TextGenerationPipeline.from_parts(model, _Letters(), GenerationConfig()))


def _exact(context: Context, name: str) -> Subject:
    """A golden model in float32: what follows other prompts than the golden one may be close in the other types.

    Raises:
        NotApplicable: The backend does not declare float32.
    """
    return state_subject(context, name, "float32")


def _alone(context: Context, subject: Subject, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
    """The greedy tokens of each prompt, in a cache of its own."""
    return [greedy_tokens(context, subject, [list(prompt)], steps)[0] for prompt in prompts]


def _prompts(subject: Subject) -> list[list[int]]:
    tokens = subject.golden.tokens
    return [subject.golden.greedy_prompt, tokens[1, :11].tolist(), tokens[2, :2].tolist()]


@check("L4.state.greedy", requires=_STATE, spec=_TOKENS)
def greedy(context: Context) -> None:
    """Greedy tokens of every golden model that keeps states, with the prompt in chunks too."""
    for name in MODELS:
        subject = state_subject(context, name)
        golden = subject.golden
        for size in (512, 2):
            got = greedy_tokens(context, subject, [golden.greedy_prompt], len(golden.greedy), prefill_chunk_size=size)
            equal(got[0], golden.greedy, f"the greedy tokens of {name!r} after a prompt in chunks of {size}")


@check("L4.state.ragged_batch", requires=_BATCH, spec=_TOKENS)
def ragged_batch(context: Context) -> None:
    """Prompts of different lengths together give what each gives alone, wherever it stands."""
    for name in _LOOPED:
        subject = state_subject(context, name)
        golden, prompts = subject.golden, _prompts(subject)
        for order in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
            got = greedy_tokens(context, subject, [prompts[index] for index in order], len(golden.greedy))
            equal(got[order.index(0)], golden.greedy, f"the greedy tokens of a row of {name!r} in the order {order}")


@check("L4.state.rewind", requires=_STATE, spec=["Generator.rewind_to.1", "State.11"])
def rewind(context: Context) -> None:
    """A sequence that goes back, near or far, goes on as if what it forgets had never been."""
    for name in (*_LOOPED, "ring"):
        subject = state_subject(context, name)
        golden = subject.golden
        for extra in (1, 2, 4):
            generator = context.generator(subject, config=GenerationConfig(max_new_tokens=len(golden.greedy)))
            generator.append_tokens(golden.greedy_prompt)
            for _ in range(2):
                generator.generate_next_token()
            generator.append_tokens(list(range(3, 3 + extra)))
            generator.generate_next_token()
            generator.rewind_to(len(golden.greedy_prompt))
            while not generator.is_done():
                generator.generate_next_token()
            got = generator.get_sequence(0)[len(golden.greedy_prompt) :]
            equal(got, golden.greedy, f"the greedy tokens of {name!r} after a rewind over {extra + 3} tokens")


@check("L4.state.beams", requires=[*_BATCH, Capability.REORDER], spec=["State.4", "State.11"])
def beams(context: Context) -> None:
    """A beam search moves states with its beams: its eight beams are the best continuations, in their order."""
    for name in _LOOPED:
        subject = _exact(context, name)
        prompt = _prompts(subject)[1]
        found = _pipeline(context, subject).generate(
            prompt, max_new_tokens=2, num_beams=8, num_return_sequences=8, ignore_eos=True
        )
        first = _log_softmax(subject.model.forward([prompt], context.cache(subject, 1, 24))[0, 0])
        scores: dict[tuple[int, int], float] = {}
        for token in np.argsort(first)[-8:].tolist():
            logits = subject.model.forward([[*prompt, token]], context.cache(subject, 1, 24))[0, 0]
            second = _log_softmax(logits)
            scores |= {(token, other): float(first[token] + second[other]) for other in range(len(second))}
        # Two logits, each within the tolerance, on either side.
        room = 4 * subject.golden.tolerance
        for place, (tokens, best) in enumerate(zip(found.token_ids, sorted(scores.values())[::-1], strict=False)):
            got = scores.get(tuple(tokens), -np.inf)
            expect(got >= best - room, f"beam {place} of {name!r} is none of the best", expected=best, got=got)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


class _HalfRight:
    """Guesses what is known to follow, and is wrong at every other place; ``Speculation`` and ``Drafter``."""

    def __init__(self, sequence: Sequence[int], vocab_size: int) -> None:
        self.sequence, self.vocab_size = list(sequence), vocab_size

    def start(self, model: Any, num_sequences: int, capacity: int, /) -> _HalfRight:
        return self

    def propose(self, requests: Sequence[Any], choose: Any, /) -> list[list[int]]:
        return [self._after(len(request.tokens), request.limit) for request in requests]

    def _after(self, length: int, limit: int) -> list[int]:
        right = self.sequence[length : length + min(limit, 3)]
        return [(token + (at + length) % 2) % self.vocab_size for at, token in enumerate(right)]

    def close(self) -> None:
        pass


@check("L4.state.speculation", requires=_DRAFTS, spec=[*_TOKENS, "State.5"])
def speculation(context: Context) -> None:
    """Drafts, right and wrong ones, change no token: what is refused is taken out of the states again."""
    from genai_iface.generation import GenerationHooks, ModelGenerator  # noqa: PLC0415 - levels 0 to 3 need no loop

    for name in LINEAR:
        subject = state_subject(context, name)
        golden = subject.golden
        drafts = _HalfRight([*golden.greedy_prompt, *golden.greedy], subject.model.spec.vocab_size)
        config = GenerationConfig(max_new_tokens=len(golden.greedy))
        hooks = GenerationHooks(speculation=drafts)
        generator = context.keep(ModelGenerator(subject.model, config, hooks=hooks))
        generator.append_tokens(golden.greedy_prompt)
        while not generator.is_done():
            generator.generate_next_token()
        got = generator.get_sequence(0)[len(golden.greedy_prompt) :]
        equal(got, golden.greedy, f"the greedy tokens of {name!r} with drafts")
        metrics = generator.metrics
        accepted, drafted = metrics.num_accepted_tokens, metrics.num_drafted_tokens
        expect(accepted < drafted, f"no draft of {name!r} was refused", accepted=accepted, drafted=drafted)


class _Mistaken:
    """A model whose logits are wrong after every third token of a row, as a draft model that is watched.

    Implements ``Model``; its drafts are what they are because of its states.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def forward(self, input_ids: Any, cache: Any, /, *, counts: Any = None, logits: Any = "last") -> Any:
        got = self.model.forward(input_ids, cache, counts=counts, logits=logits)
        return np.where((cache.lengths % 3 == 0)[:, None, None], -got, got)


class _Watched:
    """Keeps what another drafter proposes, with the length it follows. Implements ``Speculation`` and ``Drafter``."""

    def __init__(self, speculation: Any) -> None:
        self.speculation, self.drafts = speculation, list[tuple[int, list[int]]]()

    def start(self, model: Any, num_sequences: int, capacity: int, /) -> _Watched:
        self.drafter = self.speculation.start(model, num_sequences, capacity)
        return self

    def propose(self, requests: Sequence[Any], choose: Any, /) -> list[list[int]]:
        found: list[list[int]] = self.drafter.propose(requests, choose)
        self.drafts += [(len(request.tokens), drafts) for request, drafts in zip(requests, found, strict=True)]
        return found

    def close(self) -> None:
        self.drafter.close()


@check("L4.state.draft_model", requires=[*_DRAFTS, Capability.CHECKPOINT], spec=[*_TOKENS, "State.5"])
def draft_model(context: Context) -> None:
    """A draft model that keeps states forgets its wrong drafts: no token changes, and its next drafts are right."""
    from genai_iface.generation import DraftModel, GenerationHooks  # noqa: PLC0415 - levels 0 to 3 need no loop

    for name in _LOOPED:
        subject = _exact(context, name)
        prompt = subject.golden.tokens[1, :5].tolist()
        right = [*prompt, *_alone(context, subject, [prompt], 14)[0]]
        watched = _Watched(DraftModel(_Mistaken(subject.model), num_drafts=6))
        config = GenerationConfig(max_new_tokens=14)
        generator = context.generator(subject, config=config, hooks=GenerationHooks(speculation=watched))
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        equal(generator.get_sequence(0), right, f"the greedy tokens of {name!r} with a draft model")
        expect(watched.drafts, f"the draft model {name!r} proposed nothing")
        for length, drafts in watched.drafts:
            known = next((at for at in range(len(drafts)) if (length + at) % 3 == 0), len(drafts))
            wanted = right[length : length + known]
            equal(drafts[: len(wanted)], wanted, f"the drafts of {name!r} after {length} tokens")


@check("L4.state.conversation", requires=_STATE, spec=["State.11", "State.12"])
def conversation(context: Context) -> None:
    """A turn runs its new tokens only, and answers as the whole conversation from its beginning would be answered."""
    for name in _LOOPED:
        subject = _exact(context, name)
        pipeline, letters = _pipeline(context, subject), _Letters()
        chat = context.keep(pipeline.chat(capacity=48))
        held = 0
        for text in ("ab", "c", "d"):
            answer = chat.send(text, max_new_tokens=4, ignore_eos=True)
            metrics = chat.perf_metrics
            counts = metrics.num_reused_tokens, metrics.num_rerun_tokens
            equal(counts, (held, 0), f"(reused, run again) tokens of {name!r} in a turn")
            prompt = letters.encode(letters.apply_chat_template(chat.messages[:-1]))
            (wanted,) = _alone(context, subject, [prompt], 4)
            equal(letters.encode(answer), wanted, f"the answer of {name!r} in a turn")
            # All but the token that was chosen last have run.
            held = len(prompt) + len(wanted) - 1


@check("L4.state.regenerate", requires=[*_STATE, Capability.CHECKPOINT], spec=["State.11", "State.12"])
def regenerate(context: Context) -> None:
    """A turn that is answered anew runs no more than that turn again."""
    for name in _LOOPED:
        subject = _exact(context, name)
        chat = context.keep(_pipeline(context, subject).chat(capacity=48))
        for text in ("abc", "c"):
            answer = chat.send(text, max_new_tokens=4, ignore_eos=True)
        before = chat.perf_metrics
        again = chat.regenerate(max_new_tokens=4, ignore_eos=True)
        equal(again, answer, f"another answer of {name!r} to the same")
        metrics = chat.perf_metrics
        most = before.num_prompt_tokens - before.num_reused_tokens
        rerun = metrics.num_rerun_tokens
        expect(rerun <= most, f"more of {name!r} ran again than the turn", rerun=rerun, turn=most)


@check("L4.state.prefix", requires=[*_BATCH, Capability.SAVE, Capability.REORDER], spec=["State.4", "State.11"])
def prefix(context: Context) -> None:
    """Prompts that begin with a saved one go on from its states."""
    for name in _LOOPED:
        subject = _exact(context, name)
        begin = _prompts(subject)[1]
        prompts = [[*begin, 9, 9], [*begin, 11]]
        pipeline = _pipeline(context, subject)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "prefix.safetensors"
            pipeline.save_prefix(begin, file)
            result = pipeline.generate(prompts, max_new_tokens=3, ignore_eos=True, prefix=file)
        equal(result.token_ids, _alone(context, subject, prompts, 3), f"tokens of {name!r} after a saved prompt")
        reused = result.perf_metrics.num_reused_tokens
        equal(reused, 2 * len(begin), f"tokens of {name!r} that need not run")


@check("L4.state.slots", requires=_BATCH, spec=["State.3", "State.11"])
def slots(context: Context) -> None:
    """Requests that share slots, one after the other, give what each gives alone."""
    for name in _LOOPED:
        subject = _exact(context, name)
        long, short = subject.golden.tokens[1, :11].tolist(), subject.golden.tokens[2, :2].tolist()
        # The first two end together; in the step after, the fourth waits until the third has been read.
        prompts = [short, short[::-1], long, subject.golden.tokens[1, 11:15].tolist()]
        with _pipeline(context, subject).scheduler(slots=2, token_budget=6, capacity=32, thread=False) as scheduler:
            handles = [scheduler.submit(prompt, max_new_tokens=8, ignore_eos=True) for prompt in prompts]
            got = [handle.result().token_ids[0] for handle in handles]
        equal(got, _alone(context, subject, prompts, 8), f"tokens of {name!r} from slots that were used before")
