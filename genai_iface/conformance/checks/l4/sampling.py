# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: random draws. Equal logits give equal tokens on every runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.config import GenerationConfig
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import ConformanceFailure, close, equal, expect
from genai_iface.conformance._sampling_reference import Settings, expected_token, law, uniform
from genai_iface.conformance.checks.l4._text import expect_firm, reference_logits, spoken
from genai_iface.conformance.checks.l4.stop import TEXT_TOKENS, said, same_tokens
from genai_iface.conformance.registry import PROFILES, CheckFunction, check
from genai_iface.results import TokenLogprob

__all__ = ["CASES"]

_SPEC = ("Generator.generate_next_token.1",)
_DRAWN = (*_SPEC, "Sampling.14", "Sampling.20", "Sampling.21")
_DRAWS = 48
_PROMPT = [72]
_OWN_DRAWS = 192
_NEUTRAL = GenerationConfig()

CASES = {
    "temperature": ("Temperature", Settings(temperature=0.6)),
    "top_k": ("Top-k keeps the k likeliest", Settings(temperature=1.5, top_k=5)),
    "top_p": ("Top-p keeps the smallest set that reaches p", Settings(temperature=0.6, top_p=0.6)),
    "min_p": ("Min-p drops what is less likely than p times the best", Settings(temperature=0.9, min_p=0.1)),
    "all_filters": (
        "Temperature, then top-k, top-p, min-p, in this order",
        Settings(temperature=0.8, top_k=40, top_p=0.8, min_p=0.12),
    ),
    "typical_p": ("Typical-p keeps what is nearest to the expected surprise", Settings(temperature=2.0, typical_p=0.5)),
    "typical_after_top_k": (
        "Typical-p looks at what top-k has left",
        Settings(temperature=2.0, top_k=30, typical_p=0.6),
    ),
    "logit_bias": ("Biases are added to single logits", Settings(temperature=0.8, logit_bias={7: 3.0, 105: -1.0})),
}
"""Settings by check."""

_CLAUSES = {
    "top_k": ("Sampling.16",),
    "top_p": ("Sampling.17",),
    "min_p": ("Sampling.18",),
    "all_filters": ("Sampling.15",),
    "logit_bias": ("Sampling.4",),
    "typical_p": ("Sampling.19",),
    "typical_after_top_k": ("Sampling.15", "Sampling.19"),
}


def _arguments(settings: Settings) -> dict[str, Any]:
    return {**asdict(settings), "do_sample": True}


def _seed(context: Context, seed: int) -> dict[str, Any]:
    """A seed where it makes a check repeatable; not every runtime that owns its loop takes one."""
    return {"seed": seed} if context.profile == "step" else {}


def _hot(context: Context, temperature: float) -> float:
    """A temperature; OpenAI's protocol has none above 2."""
    return min(temperature, 2.0) if context.profile == "text" else temperature


def _logits(context: Context) -> tuple[NDArray[np.float64], float]:
    """The logits (V,) after the prompt, and how far those of the pipeline may be from them."""
    golden = context.golden("text")
    # Row 0 of the golden tokens begins with the prompt.
    reference = golden.after(0, 1)
    if context.dtype == "float32" or context.owns_loop:
        return reference.astype(np.float64), golden.tolerance
    # Half precision moves tokens across a filter's border: the draw is judged on the model's own logits.
    subject = context.subject("text")
    got = subject.model.forward([_PROMPT], context.cache(subject, capacity=4))[0, 0]
    close(got, reference, golden.tolerance, "logits after the prompt")
    return got.astype(np.float64), 1e-4


def _draws(context: Context, settings: Settings, seed: int = 11) -> None:
    """Fails unless many draws after the prompt are the normative ones."""
    logits, error = _logits(context)
    probabilities = law(logits, _PROMPT, settings)
    # How far the sum of probabilities may move if every logit moves by the error.
    slack = 2 * error / settings.temperature
    result = context.pipeline().generate(
        [_PROMPT], max_new_tokens=1, seed=seed, num_return_sequences=_DRAWS, **_arguments(settings)
    )
    got = [tokens[0] for tokens in result.token_ids]
    possible = np.flatnonzero(probabilities > 0)
    outside = sorted(set(got) - set(possible.tolist()))
    firm = [expected_token(probabilities, uniform(seed, index, 1), slack) for index in range(_DRAWS)]
    wrong = [index for index, token in enumerate(firm) if token is not None and token != got[index]]
    if wrong or outside:
        raise ConformanceFailure(
            "draws differ from the normative ones",
            num_wrong=len(wrong),
            num_draws=_DRAWS,
            first=wrong[:1],
            expected=[firm[index] for index in wrong[:8]],
            got=[got[index] for index in wrong[:8]],
            outside_the_filters=outside,
        )
    expect_firm(context, sum(token is not None for token in firm) > _DRAWS // 2)


_LAWS = {
    "temperature": Settings(temperature=0.6),
    "top_k": Settings(temperature=1.5, top_k=5),
    "top_p": Settings(temperature=0.6, top_p=0.6),
    "min_p": Settings(temperature=0.9, min_p=0.1),
}


def _follows(context: Context, settings: Settings) -> None:
    """Fails if draws of a runtime's own lie outside of the filters, or are too seldom the likeliest token."""
    probabilities = law(context.golden("text").after(0, 1).astype(np.float64), _PROMPT, settings)
    fields = {name: value for name, value in _arguments(settings).items() if value != getattr(_NEUTRAL, name)}
    result = context.pipeline().generate([_PROMPT], max_new_tokens=1, num_return_sequences=_OWN_DRAWS, **fields)
    counts = Counter(tokens[0] for tokens in result.token_ids)
    outside = sorted(token for token in counts if probabilities[token] == 0)
    expect(not outside, "tokens were drawn that the filters exclude", tokens=outside)
    # Five standard deviations: once in a million runs.
    deviation = np.sqrt(_OWN_DRAWS * probabilities * (1 - probabilities))
    for token in np.flatnonzero(probabilities * _OWN_DRAWS >= 5):
        difference = float(abs(counts[int(token)] - probabilities[token] * _OWN_DRAWS))
        expect(
            difference <= 5 * deviation[token] + 1,
            f"the token {token} is not drawn as often as its probability says",
            probability=float(probabilities[token]),
            num_draws=_OWN_DRAWS,
            num_drawn=counts[int(token)],
        )


for _name, _settings in _LAWS.items():
    check(
        f"L4.sampling.own_law.{_name}",
        profiles=("generator", "text"),
        spec=(*_CLAUSES.get(_name, ()), "Sampling.14"),
        title=f"Draws of the runtime's own follow the law of {_name}",
    )(lambda context, settings=_settings: _follows(context, settings))  # type: ignore[misc]


def _runner(settings: Settings) -> CheckFunction:
    return lambda context: _draws(context, settings)


for _name, (_title, _settings) in CASES.items():
    check(
        f"L4.sampling.{_name}",
        spec=(*_DRAWN, *_CLAUSES.get(_name, ())),
        title=f"{_title}: the drawn tokens are the normative ones",
    )(_runner(_settings))


@check("L4.sampling.repetition_penalty", spec=[*_SPEC, "Sampling.5"])
def repetition_penalty(context: Context) -> None:
    """The repetition penalty multiplies negative and divides positive scores of tokens that occurred."""
    logits = context.golden("text").after(0, 1).astype(np.float64)
    for targets in ({72: -2.0, 105: -3.0, 7: -3.5}, {72: 3.0, 105: 2.0, 7: 1.0}):
        # All other tokens are out; 72 is the prompt.
        bias = dict.fromkeys(range(len(logits)), -1e4)
        bias |= {token: target - float(logits[token]) for token, target in targets.items()}
        _draws(context, Settings(repetition_penalty=2.0, logit_bias=bias))


@check("L4.sampling.large_seed", spec=[*_SPEC, "Sampling.21", "Sampling.22"])
def large_seed(context: Context) -> None:
    """All 64 bits of a seed count."""
    for seed in (2**32 + 11, 2**63 + 11, 2**64 - 1, 0):
        _draws(context, Settings(temperature=1.5), seed)


@check("L4.sampling.same_seed", profiles=PROFILES, spec=[*_SPEC, "Sampling.21"])
def same_seed(context: Context) -> None:
    """The same seed gives the same tokens, run after run; another seed gives others."""
    pipeline = context.pipeline()
    runs = [
        said(pipeline.generate("H", max_new_tokens=12, temperature=_hot(context, 8.0), seed=seed)) for seed in (5, 5, 6)
    ]
    equal(runs[1], runs[0], "the tokens of a second run with the same seed")
    expect(runs[2] != runs[0], "another seed gives the same tokens", token_ids=runs[0])


@check("L4.sampling.reported_seed", spec=["Sampling.22"])
def reported_seed(context: Context) -> None:
    """The seed that was used without one given is reported, and gives the same tokens again."""
    pipeline = context.pipeline()
    first = pipeline.generate("H", max_new_tokens=8, temperature=8.0, ignore_eos=True)
    expect(isinstance(first.seed, int), "no seed is reported", got=first.seed)
    second = pipeline.generate("H", max_new_tokens=8, temperature=8.0, ignore_eos=True, seed=first.seed)
    equal(second.token_ids, first.token_ids, "the tokens with the reported seed")


@check("L4.sampling.batch_composition", spec=[*_SPEC, "Pipeline.generate.1", "Sampling.21"])
def batch_composition(context: Context) -> None:
    """A sequence's draws do not depend on what else is in the batch."""
    pipeline = context.pipeline()
    settings: dict[str, Any] = {"max_new_tokens": 8, "temperature": 6.0, "seed": 3, "ignore_eos": True}
    alone = pipeline.generate(["H"], **settings).token_ids
    beside = pipeline.generate(["H", "a much longer neighbour", "!"], **settings).token_ids
    others = pipeline.generate(["H", "x"], **settings).token_ids
    if context.dtype == "float32":
        equal(beside[0], alone[0], "the tokens of the first of three sequences, against alone")
        equal(others[0], alone[0], "the tokens of the first of two sequences, against alone")
    else:
        # In half precision a later draw may fall on the other side of a border.
        equal(beside[0][0], alone[0][0], "the first token of the first of three sequences, against alone")


@check("L4.sampling.rows_differ", profiles=PROFILES, spec=[*_SPEC, "Sampling.21"])
def rows_differ(context: Context) -> None:
    """Several sequences of one prompt are drawn independently of each other."""
    result = context.pipeline().generate(
        "H", max_new_tokens=6, temperature=_hot(context, 8.0), num_return_sequences=4, **_seed(context, 1)
    )
    equal(len(result.texts), 4, "the number of sequences")
    distinct = len({tuple(row) for row in said(result)})
    equal(distinct, 4, "the number of different sequences among 4 hot ones")


@check(
    "L4.sampling.greedy_is_not_random",
    profiles=PROFILES,
    core="Greedy decoding is what all others are compared by.",
    spec=[*_SPEC, "Sampling.12"],
)
def greedy_is_not_random(context: Context) -> None:
    """Temperature 0 and do_sample=False are greedy, whatever the seed."""
    pipeline = context.pipeline()
    cases: tuple[dict[str, Any], ...] = (
        {"temperature": 0.0, **_seed(context, 9)},
        {"do_sample": False, "temperature": 5.0},
    )
    for arguments in cases:
        got = pipeline.generate("H", max_new_tokens=6, **arguments)
        same_tokens(got, [TEXT_TOKENS[:6]], f"greedy tokens with {arguments}")


@check("L4.sampling.spread", profiles=PROFILES, core="Sampled tokens must follow the distribution.", spec=_SPEC)
def spread(context: Context) -> None:
    """Draws follow their law: many tokens, none of them too often."""
    result = context.pipeline().generate(
        "H",
        max_new_tokens=1,
        temperature=_hot(context, 50.0),
        num_return_sequences=64,
        do_sample=True,
        **_seed(context, 2),
    )
    # A target without tokens shows half of these as the same broken character.
    rows = [row for row in said(result) if not isinstance(row, str) or (row and "\ufffd" not in row)]
    counts = Counter(row[0] for row in rows)
    # No token is likelier than 2 percent, at temperature 2 than 6. So many of 64 are all but impossible, for a seed
    # that is known to be fair and for one that nobody has tried.
    most = {"step": 6, "generator": 10, "text": 15}[context.profile]
    expect(
        len(counts) > 0.6 * len(rows) > 6 and max(counts.values()) < most,
        "draws do not follow their law",
        most=counts.most_common(3),
    )


@check("L4.sampling.sequence", spec=[*_DRAWN])
def sequence(context: Context) -> None:
    """Every token of a sequence is the normative one: its random number is that of its place, prompt included."""
    pipeline = context.pipeline()
    settings = Settings(temperature=0.9)
    for prompts, each in (([[72]], 1), ([[72, 105, 32]], 2), ([[33], [72, 105]], 2)):
        result = pipeline.generate(
            prompts, max_new_tokens=7, seed=23, num_return_sequences=each, **_arguments(settings)
        )
        known = 0
        for index, got in enumerate(result.token_ids):
            wanted = spoken(context, prompts[index // each], 7, settings, seed=23, index=index)
            equal(got[: len(wanted)], wanted, f"the tokens of sequence {index} of {len(prompts) * each}")
            known += len(wanted)
        expect_firm(context, known > len(result.token_ids), tokens=known)


@check("L4.sampling.seedless_differ", spec=["Sampling.22"])
def seedless_differ(context: Context) -> None:
    """Calls without a seed get one each: their tokens differ, and so do the seeds they tell."""
    pipeline = context.pipeline()
    runs = [pipeline.generate("H", max_new_tokens=12, temperature=8.0, ignore_eos=True) for _ in range(3)]
    equal(len({run.seed for run in runs}), 3, "the number of different seeds of three calls")
    equal(len({tuple(run.token_ids[0]) for run in runs}), 3, "the number of different texts of three calls")


@check("L4.sampling.asked_for", spec=["Sampling.12", "Sampling.25"])
def asked_for(context: Context) -> None:
    """A temperature, a filter or a seed in a call asks for draws; so nothing of them is greedy without."""
    pipeline = context.pipeline()
    greedy = pipeline.generate("H", max_new_tokens=6).token_ids
    equal(greedy, [TEXT_TOKENS[:6]], "the tokens of a call that asks for nothing")
    hot: dict[str, Any] = {"max_new_tokens": 12, "num_return_sequences": 2, "ignore_eos": True}
    cases: tuple[dict[str, Any], ...] = ({}, {"seed": 3}, {"top_k": 200})
    for case in cases:
        arguments = {"temperature": 9.0, **case}
        first, second = pipeline.generate("H", **hot, **arguments).token_ids
        expect(first != second, f"two sequences with {arguments} are the same", tokens=first)


@check("L4.sampling.logprobs_are_raw", spec=["Sampling.23"])
def logprobs_are_raw(context: Context) -> None:
    """Log-probabilities of every token are those of the unprocessed logits, whatever changed the scores."""
    pipeline = context.pipeline()
    cases: tuple[dict[str, Any], ...] = (
        {"logit_bias": {120: 50.0}},
        {"temperature": 0.3, "seed": 4},
        {"temperature": 2.0, "top_k": 3, "seed": 4},
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
        {"bad_words_ids": [[105]], "min_new_tokens": 5},
    )
    for case in cases:
        result = pipeline.generate([_PROMPT], max_new_tokens=5, ignore_eos=True, logprobs=3, **case)
        expect(result.logprobs is not None, "no log-probabilities are returned")
        _check_logprobs(context, result.token_ids[0], result.logprobs[0], 3, str(case))  # type: ignore[index]


@check("L4.sampling.logprobs_of_stream", spec=["Sampling.23", "Pipeline.stream.2"])
def logprobs_of_stream(context: Context) -> None:
    """A stream brings an entry for every token, beside it; 0 alternatives are none."""
    pipeline = context.pipeline()
    for number in (0, 2):
        tokens, entries = list[int](), list[TokenLogprob]()
        for chunk in pipeline.stream([_PROMPT], max_new_tokens=30, logprobs=number):
            equal(len(chunk.logprobs or ()), len(chunk.token_ids), "the log-probabilities of a chunk's tokens")
            tokens += chunk.token_ids
            entries += chunk.logprobs or ()
        _check_logprobs(context, tokens, entries, number, f"logprobs={number}")


def _check_logprobs(
    context: Context, tokens: Sequence[int], entries: Sequence[TokenLogprob], number: int, what: str
) -> None:
    equal([entry.token_id for entry in entries], list(tokens), f"the tokens of the log-probabilities with {what}")
    scores = reference_logits(context.dtype, [*_PROMPT, *tokens])
    golden = context.golden("text")
    for at, entry in enumerate(entries):
        row = scores[at]
        exact = row - row.max() - np.log(np.exp(row - row.max()).sum())
        room = 2 * golden.tolerance * max(1.0, float(np.abs(row).max() / np.abs(golden.logits).max()))
        equal(len(entry.top), number, f"the number of alternatives of token {at} with {what}")
        for token, value in [(entry.token_id, entry.logprob), *entry.top]:
            error = float(abs(value - exact[token]))
            expect(error <= room, f"the log-probability of token {token} at {at} is wrong with {what}", max_error=error)
        values = [value for _, value in entry.top]
        expect(values == sorted(values, reverse=True), f"the alternatives are not in order with {what}", got=values)
        best = np.sort(exact)[::-1][:number]
        expect(
            all(abs(a - b) <= room for a, b in zip(values, best, strict=True)),
            f"the alternatives of token {at} are not the likeliest with {what}",
        )


@check("L4.sampling.logprobs", profiles=PROFILES, spec=["Sampling.23"])
def logprobs(context: Context) -> None:
    """Log-probabilities are those of the unprocessed logits."""
    golden = context.golden("text")
    result = context.pipeline().generate([_PROMPT], max_new_tokens=1, logprobs=2)
    expect(result.logprobs is not None, "no log-probabilities are returned")
    entry = result.logprobs[0][0]  # type: ignore[index]
    scores = golden.after(0, 1).astype(np.float64)
    exact = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
    equal(entry.token_id, TEXT_TOKENS[0], "the token of the first log-probability")
    order = [int(token) for token in np.argsort(-exact, kind="stable")[:2]]
    for token, value in [(entry.token_id, entry.logprob), *entry.top]:
        error = abs(value - exact[token])
        expect(error <= 2 * golden.tolerance, f"the log-probability of token {token} is wrong", max_error=float(error))
    equal(entry.top[0][0], order[0], "the likeliest token")
    equal(len(entry.top), 2, "the number of alternatives")
