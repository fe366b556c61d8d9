# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: what changes scores before a token is chosen, in the prompt, over its end and after it."""

from __future__ import annotations

from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import equal, expect
from genai_iface.conformance._sampling_reference import Settings
from genai_iface.conformance.checks.l4._text import expect_firm, says, spoken
from genai_iface.conformance.checks.l4.stop import EOS, TEXT_TOKENS
from genai_iface.conformance.registry import check

__all__: list[str] = []

_H, _I, _SPACE, _MARK = b"Hi !"


@check("L4.processors.ngram_over_border", spec=["Sampling.7"])
def ngram_over_border(context: Context) -> None:
    """An n-gram of the prompt, or one that begins in it, is not said again."""
    for size, prompt in ((1, [_H]), (2, [_H, _I, _H]), (3, [_H, _I, _SPACE, _H, _I]), (4, [_H, _I, _SPACE] * 2)):
        settings = Settings(no_repeat_ngram_size=size)
        says(context, prompt, settings, least=1)
        banned = {2: _I, 3: _SPACE}.get(size)
        first = spoken(context, prompt, 1, settings)[0]
        expect(first != banned, "the reference repeats an n-gram", token=first)


@check("L4.processors.ngram_of_output", spec=["Sampling.7"])
def ngram_of_output(context: Context) -> None:
    """An n-gram of the output is not said again, and one that is shorter may be."""
    # Every token is asked to be the next one, again and again.
    for size in (1, 2, 3):
        settings = Settings(no_repeat_ngram_size=size, logit_bias={_I: 500.0, _SPACE: 200.0})
        says(context, [_H], settings, least=5, steps=9)


@check("L4.processors.bad_word_over_border", spec=["Sampling.8"])
def bad_word_over_border(context: Context) -> None:
    """A word that begins in the prompt is not completed, one of which only the end stands there may be."""
    for word in ((_I,), (_H, _I), (_H, _I, _SPACE), (_I, _SPACE, TEXT_TOKENS[2]), (_SPACE, _I), (_I, _I)):
        says(context, [_H], Settings(bad_words_ids=(word,)), least=1 if word[-1] == _I else 2, steps=6)


@check("L4.processors.several_bad_words", spec=["Sampling.8"])
def several_bad_words(context: Context) -> None:
    """All bad words count, those with a common beginning too; a word longer than the sequence bans nothing yet."""
    words = ((_H, _I), (_H, 120), (_MARK, 0xC3))
    says(context, [_H], Settings(bad_words_ids=words), least=1, steps=6)
    says(context, [_H], Settings(bad_words_ids=((*[120] * 28, _H, _I),)), least=6, steps=6)
    says(context, [*"Hi \U0001f642".encode()], Settings(bad_words_ids=words), least=2, steps=6)


@check("L4.processors.bad_word_may_end", spec=["Sampling.8"])
def bad_word_may_end(context: Context) -> None:
    """A stop token alone is no bad word: the sequence can end."""
    result = context.pipeline().generate([_H], max_new_tokens=30, bad_words_ids=[[EOS], [_MARK, _MARK]])
    equal(result.token_ids, [[*TEXT_TOKENS, EOS]], "the tokens with the end-of-sequence token as a bad word")


@check("L4.processors.presence", spec=["Sampling.6"])
def presence(context: Context) -> None:
    """The presence penalty is taken once from what was generated, not from what the prompt says."""
    settings = Settings(presence_penalty=2.0, logit_bias={_I: 27.2, _SPACE: 29.0, _MARK: 28.5})
    says(context, [_I, _H], settings, least=6, steps=8)


@check("L4.processors.frequency", spec=["Sampling.6"])
def frequency(context: Context) -> None:
    """The frequency penalty grows with how often a token was generated; the prompt does not count."""
    settings = Settings(frequency_penalty=1.7, logit_bias={_I: 36.0, _SPACE: 33.0, _MARK: 30.5})
    says(context, [_I, _I, _SPACE, _H], settings, least=6, steps=9)


@check("L4.processors.repetition", spec=["Sampling.5"])
def repetition(context: Context) -> None:
    """The repetition penalty counts the prompt, and a token once however often it occurs."""
    settings = Settings(repetition_penalty=1.5, logit_bias={_I: 60.0, _SPACE: 50.0, _MARK: 29.0})
    says(context, [_I, _I, _H], settings, least=4, steps=6)


@check("L4.processors.order", spec=["Sampling.3"])
def order(context: Context) -> None:
    """Biases come before penalties, penalties before what is banned."""
    bias = {_I: 40.0, _SPACE: 30.0, _MARK: 24.0}
    for settings in (
        Settings(logit_bias=bias, repetition_penalty=2.0, presence_penalty=2.0),
        Settings(logit_bias=bias, repetition_penalty=2.0, frequency_penalty=2.0, no_repeat_ngram_size=3),
        Settings(logit_bias=bias, presence_penalty=1.0, bad_words_ids=((_SPACE, _I),)),
    ):
        says(context, [_H, _I], settings, least=5, steps=8)


@check("L4.processors.minimum_bans_all", spec=["Sampling.9"])
def minimum_bans_all(context: Context) -> None:
    """Before min_new_tokens no stop token comes, whichever of them it is; at that number it may."""
    stops = (EOS, _MARK)
    for least in (6, 7, 10):
        settings = Settings(min_new_tokens=least)
        wanted = spoken(context, [_H], 14, settings, stops=stops)
        expect_firm(context, len(wanted) >= 7, firm=len(wanted))
        says(context, [_H], settings, least=7, stops=stops, stop_token_ids=[_MARK])


@check("L4.processors.minimum_counts_output", spec=["Sampling.9"])
def minimum_counts_output(context: Context) -> None:
    """min_new_tokens counts what was generated, not the prompt."""
    prompt = [_H, *TEXT_TOKENS[:-1]]
    settings = Settings(min_new_tokens=3)
    wanted = spoken(context, prompt, 3, settings)
    expect_firm(context, len(wanted) >= 2 and EOS not in wanted, firm=len(wanted))
    says(context, prompt, settings, least=2, steps=3)
