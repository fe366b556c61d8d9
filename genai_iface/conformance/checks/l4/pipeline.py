# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: prompts of every kind, in their order, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

from genai_iface.config import GenerationConfig
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import NotApplicable, equal, expect, raises
from genai_iface.conformance._sampling_reference import Settings
from genai_iface.conformance.checks.l4._text import changed_folder, spoken
from genai_iface.conformance.checks.l4.stop import EOS, PROMPT, TEXT, TEXT_TOKENS, said
from genai_iface.conformance.registry import PROFILES, check
from genai_iface.errors import CacheOverflowError, GenAIError, InvalidInputError

__all__: list[str] = []


@check(
    "L4.pipeline.prompt_order", profiles=PROFILES, core="An answer must go to who asked.", spec=["Pipeline.generate.1"]
)
def prompt_order(context: Context) -> None:
    """Results are in the order of the prompts, whichever ends first."""
    prompts = ["!", PROMPT, "Hi \U0001f642!é", "Hi "]
    result = context.pipeline().generate(prompts, max_new_tokens=30)
    equal(result.texts, ["é.", TEXT, ".", "\U0001f642!é."], "texts in the order of the prompts")


@check("L4.pipeline.same_alone", profiles=PROFILES, spec=["Pipeline.generate.1"])
def same_alone(context: Context) -> None:
    """A prompt gives the same alone, beside others, and again."""
    pipeline = context.pipeline()
    together = said(pipeline.generate([PROMPT, "a long and different neighbour", "!"], max_new_tokens=9))
    for index, prompt in enumerate((PROMPT, "a long and different neighbour", "!")):
        for turn in range(2):
            alone = said(pipeline.generate(prompt, max_new_tokens=9))[0]
            equal(alone, together[index], f"tokens of {prompt!r} alone, time {turn + 1}, against the batch")


@check("L4.pipeline.token_ids", profiles=PROFILES, spec=["Pipeline.generate.2"])
def token_ids(context: Context) -> None:
    """Prompts may be lists of token ids."""
    pipeline = context.pipeline()
    expected = [[*TEXT_TOKENS, EOS]]
    equal(pipeline.generate([72], max_new_tokens=30).token_ids, expected, "token_ids for a prompt of token ids")
    got = pipeline.generate([[72], [33]], max_new_tokens=30).token_ids
    equal(got, [*expected, [*"é.".encode(), EOS]], "token_ids for two prompts of token ids")


@check("L4.pipeline.messages", profiles=("step", "generator"), spec=["Pipeline.generate.2"])
def messages(context: Context) -> None:
    """A conversation goes through the folder's chat template."""
    pipeline = context.pipeline()
    conversation = [{"role": "user", "content": "H"}]
    got = pipeline.generate(conversation, max_new_tokens=6).token_ids
    start, end = 259, 260
    rendered = [start, *b"user\nH", end, *b"\n", start, *b"assistant\n"]
    equal(got, pipeline.generate(rendered, max_new_tokens=6).token_ids, "tokens after a conversation")


@check("L4.pipeline.config", profiles=("step", "generator"), spec=["Pipeline.generate.3"])
def config(context: Context) -> None:
    """A call's config replaces the defaults, and its overrides replace both."""
    pipeline = context.pipeline()
    shorter = pipeline.generation_config.replace(max_new_tokens=3)
    equal(pipeline.generate(PROMPT, shorter).token_ids, [TEXT_TOKENS[:3]], "tokens with a config")
    got = pipeline.generate(PROMPT, shorter, max_new_tokens=5).token_ids
    equal(got, [TEXT_TOKENS[:5]], "tokens with a config and an override")


_DEFAULTS = {"eos_token_id": EOS, "max_new_tokens": 4, "bad_words_ids": [[TEXT_TOKENS[0]]], "min_new_tokens": 2}


def _with_defaults(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps(_DEFAULTS), encoding="utf-8")


@check("L4.pipeline.config_replaces", spec=["Pipeline.generate.3"])
def config_replaces(context: Context) -> None:
    """A call's config takes the place of all defaults: no field of theirs is left, but the end tokens it lacks."""
    with changed_folder(context) as folder:
        _with_defaults(folder)
        pipeline = context.pipeline(folder)
        got = pipeline.generate(PROMPT, GenerationConfig(max_new_tokens=30)).token_ids
        equal(got, [[*TEXT_TOKENS, EOS]], "tokens with a config beside defaults that ban the first one")
        got = pipeline.generate(".", GenerationConfig(max_new_tokens=30)).token_ids
        equal(got, [[EOS]], "tokens with a config beside defaults with a minimum")


@check("L4.pipeline.overrides_keep_defaults", spec=["Pipeline.generate.3"])
def overrides_keep_defaults(context: Context) -> None:
    """The folder's defaults hold where a call says nothing; an override replaces its own field and no other."""
    with changed_folder(context) as folder:
        _with_defaults(folder)
        pipeline = context.pipeline(folder)
        settings = Settings(bad_words_ids=((TEXT_TOKENS[0],),), min_new_tokens=2)
        for limit, arguments in ((4, {}), (2, {"max_new_tokens": 2}), (4, {"bad_words_ids": [[7]]})):
            loose = dataclasses.replace(settings, bad_words_ids=((7,),)) if "bad_words_ids" in arguments else settings
            wanted = spoken(context, [72], limit, loose)
            result = pipeline.generate([72], **arguments)
            equal(result.token_ids[0][: len(wanted)], wanted, f"tokens with the folder's defaults and {arguments}")
            equal(len(result.token_ids[0]), limit, f"the number of tokens with the defaults and {arguments}")


@check("L4.pipeline.calls_leave_no_trace", spec=["Pipeline.generate.1", "Pipeline.generate.3"])
def calls_leave_no_trace(context: Context) -> None:
    """What a call was given changes neither the defaults nor the config it came in, nor a later call."""
    pipeline = context.pipeline()
    before, given = pipeline.generation_config, pipeline.generation_config.replace(max_new_tokens=5)
    same = given.replace()
    pipeline.generate(PROMPT, given, stop_strings=["i"], bad_words_ids=[[7]])
    equal((given, pipeline.generation_config), (same, before), "(the config, the defaults) after a call")
    list(pipeline.stream(PROMPT, max_new_tokens=2, stop_token_ids=[33], logit_bias={7: 50.0}))
    equal(pipeline.generate(PROMPT, max_new_tokens=30).token_ids, [[*TEXT_TOKENS, EOS]], "tokens of a later call")


@check("L4.pipeline.several_sequences", spec=["Pipeline.generate.1"])
def several_sequences(context: Context) -> None:
    """Several sequences of each prompt stand together, in the order of the prompts."""
    # So cold that every draw is the likeliest token.
    cold = {"temperature": 0.05, "seed": 1, "num_return_sequences": 2}
    result = context.pipeline().generate(["!", "Hi \U0001f642!é"], max_new_tokens=9, **cold)  # type: ignore[arg-type]
    equal(result.texts, ["é.", "é.", ".", "."], "texts of two sequences of each of two prompts")


@check("L4.pipeline.metrics_of_several", spec=["Pipeline.generate.6"])
def metrics_of_several(context: Context) -> None:
    """Measurements count the tokens of every sequence, those that ended it and were stopped at included."""
    pipeline = context.pipeline()
    cases: tuple[tuple[Any, dict[str, Any], int], ...] = (
        (["Hi ", "!"], {"num_return_sequences": 3, "temperature": 0.05, "seed": 1}, 12),
        (PROMPT, {"stop_strings": ["!é"]}, 1),
        ([PROMPT, "."], {}, 2),
    )
    for prompt, arguments, prompted in cases:
        result = pipeline.generate(prompt, max_new_tokens=30, **arguments)
        metrics = result.perf_metrics
        generated = sum(map(len, result.token_ids))
        counts = metrics.num_prompt_tokens, metrics.num_generated_tokens
        equal(counts, (prompted, generated), f"(prompt, generated) tokens of {prompt!r} with {arguments}")
        reused = metrics.num_reused_tokens
        expect(0 <= reused <= prompted, f"reused tokens of {prompt!r} are miscounted", reused=reused)


@check("L4.pipeline.metrics", spec=["Pipeline.generate.6"])
def metrics(context: Context) -> None:
    """Measurements count tokens rightly and are not negative."""
    got = context.pipeline().generate(["Hi ", "!"], max_new_tokens=4).perf_metrics
    counts = got.num_prompt_tokens - got.num_reused_tokens, got.num_generated_tokens
    expect(
        got.num_prompt_tokens == 4 and counts[1] == 8,
        "tokens are miscounted",
        prompt=got.num_prompt_tokens,
        new=counts[1],
    )
    times = got.prefill_seconds, got.decode_seconds, got.time_to_first_token
    expect(min(times) >= 0 and got.time_to_first_token > 0, "a time is not positive", seconds=times)


@check("L4.pipeline.threads", spec=["Pipeline.generate.1"])
def threads(context: Context) -> None:
    """Calls from several threads do not disturb each other."""
    pipeline = context.pipeline()
    prompts = [PROMPT, "!", "Hi ", "Hi \U0001f642!é"]
    expected = [pipeline.generate(prompt, max_new_tokens=30).text for prompt in prompts]
    results: dict[int, str] = {}

    def work(index: int) -> None:
        results[index] = pipeline.generate(prompts[index], max_new_tokens=30).text

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    equal([results.get(index) for index in range(len(prompts))], expected, "texts from four threads")


@check("L4.pipeline.cancel", spec=["Generator.cancel.1"])
def cancel(context: Context) -> None:
    """A pipeline that can be cancelled returns what there is, between the chunks of a prefill too."""
    if context.owns_loop:
        raise NotApplicable("the protocol Pipeline has no cancel(); closing the stream is checked instead")
    done: list[int] = []
    pipelines: list[Any] = []

    def on_prefill(count: int, total: int) -> None:
        done.append(count)
        pipelines[0].cancel()

    pipelines.append(context.pipeline(prefill_chunk_size=4, on_prefill=on_prefill))
    result = pipelines[0].generate("a prompt of twenty ch", max_new_tokens=5)
    equal(result.finish_reasons, ["cancelled"], "finish_reasons after cancel() within a prefill")
    equal((result.token_ids, len(done)), ([[]], 1), "(tokens, chunks that ran) after cancel()")
    stream = pipelines[0].stream(PROMPT, max_new_tokens=30)
    texts, reason = [next(stream).text], None
    pipelines[0].cancel()
    for chunk in stream:
        texts.append(chunk.text)
        reason = chunk.finish_reason
    equal(reason, "cancelled", "the finish_reason of a stream that was cancelled")
    expect(TEXT.startswith("".join(texts)), "text was lost by cancel()", got=texts)


@check("L4.errors.empty_prompt", spec=["Pipeline.generate.5"])
def empty_prompt(context: Context) -> None:
    """An empty prompt, or none, is refused."""
    pipeline = context.pipeline()
    prompts: tuple[Any, ...] = ([], [[]], [PROMPT, ""])
    for prompt in prompts:
        raises(InvalidInputError, lambda wrong=prompt: pipeline.generate(wrong), f"the prompt {prompt!r}")  # type: ignore[misc]


@check("L4.errors.unknown_parameter", spec=["Pipeline.generate.4"])
def unknown_parameter(context: Context) -> None:
    """An unknown parameter is refused, not ignored."""
    pipeline = context.pipeline()
    mistyped = {"temprature": 0.5}
    raises(InvalidInputError, lambda: pipeline.generate(PROMPT, **mistyped), "the parameter temprature")  # type: ignore[arg-type]


@check("L4.errors.illegal_value", spec=["Pipeline.generate.4"])
def illegal_value(context: Context) -> None:
    """A value out of range is refused, with the field's name in the message."""
    pipeline = context.pipeline()
    cases: tuple[dict[str, Any], ...] = ({"temperature": -1.0}, {"top_p": 1.5}, {"top_k": -3}, {"max_new_tokens": -1})
    for case in cases:
        name = next(iter(case))
        error = raises(InvalidInputError, lambda wrong=case: pipeline.generate(PROMPT, **wrong), str(case))  # type: ignore[misc]
        expect(name in str(error), f"the message does not name {name}", message=str(error))


@check("L4.errors.prompt_too_long", spec=["Pipeline.generate.5"])
def prompt_too_long(context: Context) -> None:
    """A prompt longer than the context is a CacheOverflowError."""
    pipeline = context.pipeline()
    length = context.golden("text").context_length
    raises(CacheOverflowError, lambda: pipeline.generate("x" * (length + 1), max_new_tokens=1), "a prompt too long")


@check("L4.errors.token_id", spec=["Pipeline.generate.5"])
def token_id(context: Context) -> None:
    """A token id that the model lacks is refused."""
    pipeline = context.pipeline()
    raises(InvalidInputError, lambda: pipeline.generate([300], max_new_tokens=1), "the token id 300")


@check("L4.errors.closed", spec=["Pipeline.close.1"])
def closed(context: Context) -> None:
    """A closed pipeline refuses to generate; closing twice does nothing."""
    pipeline = context.pipeline()
    pipeline.close()
    pipeline.close()
    raises(GenAIError, lambda: pipeline.generate(PROMPT, max_new_tokens=1), "a closed pipeline")
