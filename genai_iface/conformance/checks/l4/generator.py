# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: the SDK's generator over the runtime's model, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.conformance._context import Context, Subject
from genai_iface.conformance._failure import NotApplicable, close, equal, expect, raises
from genai_iface.conformance.registry import PROFILES, CheckFunction, check
from genai_iface.errors import CacheOverflowError, InvalidInputError

__all__ = ["greedy_tokens"]

GREEDY = ("base", "rank3", "group1", "group3", "group8", "head64", "head256", "partial", "softcap", "ring")


def greedy_tokens(
    context: Context, subject: Subject, prompts: list[list[int]], steps: int, **arguments: Any
) -> list[list[int]]:
    """The tokens that greedy decoding appends to each prompt."""
    if context.profile == "text":
        return context.pipeline(subject.golden.folder).generate(prompts, max_new_tokens=steps).token_ids
    if context.profile == "generator":
        return [_own_greedy(context, subject, prompt, steps) for prompt in prompts]
    config = GenerationConfig(max_new_tokens=steps)
    generator = context.generator(subject, config=config, num_sequences=len(prompts), **arguments)
    generator.append_tokens(prompts)
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(index)[len(prompt) :] for index, prompt in enumerate(prompts)]


def _own_greedy(context: Context, subject: Subject, prompt: list[int], steps: int) -> list[int]:
    """The same from a generator of the runtime, which watches no limits."""
    generator = context.generator(subject)
    generator.append_tokens(prompt)
    for _ in range(steps):
        generator.generate_next_token()
    return generator.get_sequence(0)[len(prompt) :]


def _runner(name: str) -> CheckFunction:
    def run(context: Context) -> None:
        subject = context.subject(name)
        golden = subject.golden
        got = greedy_tokens(context, subject, [golden.greedy_prompt], len(golden.greedy))
        equal(got[0], golden.greedy, f"the greedy tokens of {name}")

    return run


for _name in GREEDY:
    check(
        f"L4.greedy.{_name}",
        profiles=PROFILES,
        requires=[Capability.CACHE_CIRCULAR] if _name == "ring" else [],
        spec=["Generator.generate_next_token.1"],
        title=f"Greedy tokens of the model {_name}",
        core="Equal models must say equal things.",
    )(_runner(_name))


@check(
    "L4.greedy.fresh",
    profiles=PROFILES,
    spec=["Generator.generate_next_token.1"],
    core="A model that nobody has seen cannot be known by heart.",
)
def fresh(context: Context) -> None:
    """Greedy tokens of models that were made for this run."""
    context.fresh("base")  # what leaves this one out leaves the check out
    for name in ("base", "group8", "partial"):
        try:
            subject = context.fresh(name)
        except NotApplicable:
            # A form that is made for some runtime need not hold every model.
            continue
        golden = subject.golden
        # Maybe none: the runner-up was too near everywhere.
        got = greedy_tokens(context, subject, [golden.greedy_prompt], max(1, len(golden.greedy)))
        equal(got[0][: len(golden.greedy)], golden.greedy, f"the greedy tokens of a fresh {name}")


@check("L4.greedy.long_context", profiles=PROFILES, spec=["Generator.generate_next_token.1"])
def long_context(context: Context) -> None:
    """Greedy tokens after a prompt of 4096, prefilled in chunks."""
    subject = context.subject("long")
    golden = subject.golden
    got = greedy_tokens(context, subject, [golden.greedy_prompt], len(golden.greedy))
    equal(got[0], golden.greedy, "the greedy tokens after 4096")


@check("L4.greedy.ragged_batch", spec=["Generator.generate_next_token.1", "Model.forward.6"])
def ragged_batch(context: Context) -> None:
    """Prompts of different lengths together give what each gives alone."""
    subject = context.subject()
    golden = subject.golden
    prompts = [golden.greedy_prompt, golden.tokens[1, :11].tolist(), golden.tokens[2, :2].tolist()]
    got = greedy_tokens(context, subject, prompts, len(golden.greedy))
    equal(got[0], golden.greedy, "the greedy tokens of a row of a ragged batch")
    shifted = greedy_tokens(context, subject, [prompts[1], prompts[0]], len(golden.greedy))
    equal(shifted[1], golden.greedy, "the greedy tokens of the same row at another place")


@check("L4.greedy.chunked_prefill", spec=["Generator.generate_next_token.1", "Model.forward.6"])
def chunked_prefill(context: Context) -> None:
    """The chunk size of the prefill does not change tokens."""
    subject = context.subject()
    golden = subject.golden
    for size in (1, 2, 4):
        got = greedy_tokens(context, subject, [golden.greedy_prompt], len(golden.greedy), prefill_chunk_size=size)
        equal(got[0], golden.greedy, f"the greedy tokens with chunks of {size}")


@check(
    "L4.generator.logits",
    profiles=("step", "generator"),
    spec=["Generator.generate_next_token.1", "Generator.get_logits.1", "Generator.set_logits.1"],
)
def logits(context: Context) -> None:
    """get_logits() shows the reference logits, set_logits() decides the next token and only that."""
    subject = context.subject()
    golden = subject.golden
    config = GenerationConfig(max_new_tokens=4)
    generator = context.generator(subject, config=config)
    prompt = golden.tokens[0, :6].tolist()
    generator.append_tokens(prompt)
    close(generator.get_logits()[0], golden.after(0, 6), golden.tolerance, "get_logits() after a prompt")
    wanted = int(golden.tokens[0, 6])
    forced = np.zeros((1, subject.vocab_size), np.float32)
    forced[0, wanted] = 1
    generator.set_logits(forced)
    generator.generate_next_token()
    equal(generator.get_next_tokens(), [wanted], "the token that set_logits() decided")
    close(generator.get_logits()[0], golden.after(0, 7), golden.tolerance, "get_logits() after a forced token")
    equal((generator.token_count(), generator.get_sequence(0)), (7, [*prompt, wanted]), "the sequence")


@check("L4.generator.ties", profiles=("step", "generator"), spec=["Generator.generate_next_token.1", "Sampling.13"])
def ties(context: Context) -> None:
    """Among equal logits the lowest token id wins."""
    subject = context.subject()
    generator = context.generator(subject, config=GenerationConfig(max_new_tokens=2))
    generator.append_tokens([1, 2])
    tied = np.zeros((1, subject.vocab_size), np.float32)
    tied[0, [5, 9, 30]] = 2
    generator.set_logits(tied)
    generator.generate_next_token()
    equal(generator.get_next_tokens(), [5], "the greedy token among the ties 5, 9, 30")


@check("L4.generator.rewind", profiles=("step", "generator"), spec=["Generator.rewind_to.1"])
def rewind(context: Context) -> None:
    """After a rewind a sequence goes on as if the forgotten tokens had never been."""
    for name in ("base", "group3"):
        subject = context.subject(name)
        golden = subject.golden
        generator = context.generator(subject, config=GenerationConfig(max_new_tokens=len(golden.greedy)))
        generator.append_tokens([*golden.greedy_prompt, 3, 1, 4])
        for _ in range(3):
            generator.generate_next_token()
        generator.rewind_to(len(golden.greedy_prompt))
        for _ in golden.greedy:
            generator.generate_next_token()
        got = generator.get_sequence(0)[len(golden.greedy_prompt) :]
        equal(got, golden.greedy, f"the greedy tokens of {name} after a rewind")


@check("L4.generator.next_turn", profiles=("step", "generator"), spec=["Generator.append_tokens.1"])
def next_turn(context: Context) -> None:
    """A sequence that has stopped goes on after more tokens are appended."""
    subject = context.subject()
    golden = subject.golden
    first, second = golden.greedy_prompt[:2], golden.greedy_prompt[2:]
    stops = tuple(range(subject.vocab_size))
    generator = context.generator(subject, config=GenerationConfig(max_new_tokens=6, stop_token_ids=stops))
    generator.append_tokens(first)
    generator.generate_next_token()
    equal(generator.finish_reasons, ("stop",), "finish_reasons after a stop token")
    raises(InvalidInputError, generator.generate_next_token, "a token of a sequence that is done")
    generator.rewind_to(len(first))
    generator.append_tokens(second)
    equal(generator.is_done(), False, "is_done() after tokens were appended")
    generator.generate_next_token()
    equal(generator.get_next_tokens(), [golden.greedy[0]], "the token of the next turn")


@check("L4.generator.overflow", profiles=("step", "generator"), spec=["Generator.append_tokens.2", "Errors.1"])
def overflow(context: Context) -> None:
    """Tokens beyond the capacity are refused when they are appended."""
    subject = context.subject()
    generator = context.generator(subject, capacity=6)
    raises(CacheOverflowError, lambda: generator.append_tokens(list(range(7))), "a prompt beyond the capacity")
    vocabulary = subject.vocab_size
    raises(InvalidInputError, lambda: generator.append_tokens([vocabulary]), "a token id beyond the vocabulary")
    equal(generator.token_count(), 0, "the number of tokens after both refusals")


@check("L4.cancel.between_chunks", spec=["Generator.cancel.1"])
def between_chunks(context: Context) -> None:
    """cancel() is noticed between the chunks of a prefill; nothing is generated."""
    subject = context.subject()
    done: list[int] = []
    stop: list[Callable[[], None]] = []

    def on_prefill(count: int, total: int) -> None:
        done.append(count)
        stop[0]()

    config = GenerationConfig(max_new_tokens=4)
    generator = context.generator(subject, config=config, prefill_chunk_size=4, on_prefill=on_prefill)
    stop.append(generator.cancel)
    generator.append_tokens(subject.golden.tokens[0, :20].tolist())
    generator.generate_next_token()
    equal(generator.finish_reasons, ("cancelled",), "finish_reasons after cancel() within a prefill")
    expect(len(done) == 1, "chunks ran after cancel()", tokens_done=done)
    equal(generator.token_count(), 20, "the number of tokens after cancel() within a prefill")


@check("L4.cancel.keeps_tokens", profiles=("step", "generator"), spec=["Generator.cancel.1"])
def keeps_tokens(context: Context) -> None:
    """cancel() between tokens keeps what there is, and the sequence can go on."""
    subject = context.subject()
    golden = subject.golden
    generator = context.generator(subject, config=GenerationConfig(max_new_tokens=len(golden.greedy)))
    generator.append_tokens(golden.greedy_prompt)
    generator.generate_next_token()
    generator.generate_next_token()
    generator.cancel()
    equal((generator.is_done(), generator.finish_reasons), (True, ("cancelled",)), "(is_done, finish_reasons)")
    got = generator.get_sequence(0)[len(golden.greedy_prompt) :]
    equal(got, golden.greedy[:2], "the tokens that cancel() keeps")
