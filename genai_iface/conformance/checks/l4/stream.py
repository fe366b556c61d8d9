# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: text as it comes."""

from __future__ import annotations

from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import equal, expect
from genai_iface.conformance.checks.l4.stop import EOS, PROMPT, TEXT, TEXT_TOKENS
from genai_iface.conformance.registry import PROFILES, check

__all__: list[str] = []


@check(
    "L4.stream.concatenation",
    profiles=PROFILES,
    core="A stream must say what the result says.",
    spec=["Pipeline.stream.2"],
)
def concatenation(context: Context) -> None:
    """The chunks' texts and tokens joined are those that generate() returns."""
    pipeline = context.pipeline()
    prompts = [PROMPT, "!"]
    result = pipeline.generate(prompts, max_new_tokens=30)
    texts, tokens = ["", ""], [[], []]  # type: tuple[list[str], list[list[int]]]
    for chunk in pipeline.stream(prompts, max_new_tokens=30):
        texts[chunk.index] += chunk.text
        tokens[chunk.index].extend(chunk.token_ids)
    equal(texts, result.texts, "the texts of the chunks, joined")
    equal(texts, [TEXT, "é."], "the texts")
    equal(tokens, result.token_ids, "the tokens of the chunks, joined")


@check("L4.stream.whole_characters", profiles=PROFILES, spec=["Pipeline.stream.1"])
def whole_characters(context: Context) -> None:
    """A character whose bytes span tokens comes in one piece, never broken."""
    texts = [chunk.text for chunk in context.pipeline().stream(PROMPT, max_new_tokens=30)]
    expect(all("\ufffd" not in text for text in texts), "a chunk holds a broken character", chunks=texts)
    expect("\U0001f642" in texts and "é" in texts, "a character did not come in one piece", chunks=texts)


@check("L4.stream.as_it_comes", profiles=PROFILES, spec=["Pipeline.stream.4"])
def as_it_comes(context: Context) -> None:
    """Text that is complete is not held back to the end."""
    texts = [chunk.text for chunk in context.pipeline().stream(PROMPT, max_new_tokens=30)]
    expect(len([text for text in texts if text]) >= 4, "the text came in few pieces", chunks=texts)


@check("L4.stream.cut_character", profiles=PROFILES, spec=["Pipeline.stream.2"])
def cut_character(context: Context) -> None:
    """A sequence that ends within a character ends with U+FFFD, streamed or not."""
    pipeline = context.pipeline()
    result = pipeline.generate(PROMPT, max_new_tokens=4)
    streamed = "".join(chunk.text for chunk in pipeline.stream(PROMPT, max_new_tokens=4))
    equal(streamed, result.text, "the text of a sequence that ends within a character")
    expect(result.text.startswith("i ") and "\ufffd" in result.text, "bytes were dropped", got=repr(result.text))


@check("L4.stream.one_finish_reason", profiles=PROFILES, spec=["Pipeline.stream.3"])
def one_finish_reason(context: Context) -> None:
    """Exactly the last chunk of a sequence carries a finish_reason."""
    reasons: list[list[object]] = [[], [], []]
    for chunk in context.pipeline().stream([PROMPT, "!", "Hi"], max_new_tokens=5):
        reasons[chunk.index].append(chunk.finish_reason)
    equal([row[-1] for row in reasons], ["length", "stop", "length"], "the last chunks' finish_reasons")
    early = sum(reason is not None for row in reasons for reason in row[:-1])
    equal(early, 0, "the number of finish_reasons before the last chunk")


@check("L4.stream.tokens_with_text", profiles=("step", "generator"), spec=["Pipeline.stream.2"])
def tokens_with_text(context: Context) -> None:
    """Each chunk's tokens are those since the chunk before, the end-of-sequence token included."""
    chunks = list(context.pipeline().stream(PROMPT, max_new_tokens=30))
    equal([token for chunk in chunks for token in chunk.token_ids], [*TEXT_TOKENS, EOS], "the tokens of all chunks")
    for chunk in chunks[:-1]:
        # The tokens are bytes: a chunk's tokens are the bytes of its text.
        equal(bytes(chunk.token_ids), chunk.text.encode(), f"the tokens of the chunk {chunk.text!r}")


@check("L4.stream.stop_string_never_leaks", profiles=PROFILES, spec=["Pipeline.stream.2"])
def stop_string_never_leaks(context: Context) -> None:
    """No part of a stop string is streamed before it is known to be one."""
    pipeline = context.pipeline()
    for stop, text in (("\U0001f642!é", "i "), ("!é.", "i \U0001f642")):
        pieces = [chunk.text for chunk in pipeline.stream(PROMPT, max_new_tokens=30, stop_strings=[stop])]
        equal("".join(pieces), text, f"the chunks joined, with the stop string {stop!r}")


@check("L4.stream.closing_is_clean", profiles=PROFILES, spec=["Pipeline.stream.5"])
def closing_is_clean(context: Context) -> None:
    """A stream that is closed early disturbs nothing."""
    pipeline = context.pipeline()
    stream = pipeline.stream(PROMPT, max_new_tokens=30)
    next(stream)
    close = getattr(stream, "close", None)
    if callable(close):
        close()
    equal(pipeline.generate(PROMPT, max_new_tokens=30).texts, [TEXT], "the text after a stream was closed early")


@check("L4.stream.two_at_once", profiles=PROFILES, spec=["Pipeline.generate.1"])
def two_at_once(context: Context) -> None:
    """Two streams of one pipeline, read in turns, do not disturb each other."""
    pipeline = context.pipeline()
    streams = [pipeline.stream(prompt, max_new_tokens=30) for prompt in (PROMPT, "!")]
    texts = ["", ""]
    open_streams = {0, 1}
    while open_streams:
        for index in sorted(open_streams):
            chunk = next(streams[index], None)
            if chunk is None:
                open_streams.discard(index)
            else:
                texts[index] += chunk.text
    equal(texts, [TEXT, "é."], "the texts of two streams read in turns")
