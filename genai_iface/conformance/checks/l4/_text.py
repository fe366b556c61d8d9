# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What the text model must say: its float64 reference behind the normative choice of tokens."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import ConformanceFailure, NotApplicable, equal
from genai_iface.conformance._sampling_reference import Settings, expected_token, law, processed, uniform
from genai_iface.conformance.decoder.plan import PLANS
from genai_iface.conformance.decoder.reference import logits_of
from genai_iface.conformance.decoder.weights import EOS, Weights, weights_of

__all__ = ["changed_folder", "expect_firm", "reference_logits", "says", "spoken"]

_PLAN = next(plan for plan in PLANS if plan.name == "text")
_STOPS = (EOS,)


@cache
def _weights() -> Weights:
    return weights_of(_PLAN)


def reference_logits(dtype: str, tokens: Sequence[int]) -> NDArray[np.float64]:
    """The logits (T, V) of the text model after each token of a sequence."""
    return logits_of(_PLAN, _weights(), dtype, tokens, None)


def spoken(
    context: Context,
    prompt: Sequence[int],
    steps: int,
    settings: Settings,
    *,
    stops: Collection[int] = _STOPS,
    seed: int | None = None,
    index: int = 0,
) -> list[int]:
    """The tokens that must follow a prompt, as far as rounding leaves no doubt about them.

    Args:
        context: The run, whose dtype says how far logits may be off.
        prompt: Token ids.
        steps: Most tokens.
        settings: How they are chosen.
        stops: Tokens after which nothing follows.
        seed: Draws with it; None is greedy.
        index: The number of the sequence in its call.
    """
    golden, said = context.golden("text"), list[int]()
    while len(said) < steps and not (said and said[-1] in stops):
        tokens = [*prompt, *said]
        logits = reference_logits(context.dtype, tokens)[-1]
        # Other prompts than the golden one may have larger logits.
        error = golden.tolerance * max(1.0, float(np.abs(logits).max() / np.abs(golden.logits).max()))
        if seed is None:
            scores = np.array(processed(logits, tokens, settings, num_new=len(said), stops=stops))
            second, first = np.sort(scores)[-2:]
            token = int(scores.argmax()) if first - second > 4 * error * settings.repetition_penalty else None
        else:
            chances = law(logits, tokens, settings, num_new=len(said), stops=stops)
            token = expected_token(chances, uniform(seed, index, len(tokens)), 2 * error / settings.temperature)
        if token is None:
            break
        said.append(token)
    return said


def expect_firm(context: Context, condition: object, **numbers: Any) -> None:
    """Whether the references say enough for a check to mean something.

    Raises:
        NotApplicable: They do not in a half type, whose roundings may decide between likely tokens.
        ConformanceFailure: They do not in float32: the check has to be mended.
    """
    if condition:
        return
    if context.dtype != "float32":
        raise NotApplicable(f"rounding to {context.dtype} decides between the tokens that this check wants")
    raise ConformanceFailure("the references are too close to call", **numbers)


def says(
    context: Context,
    prompt: Sequence[int],
    settings: Settings,
    *,
    least: int,
    steps: int = 14,
    stops: Collection[int] = _STOPS,
    **arguments: Any,
) -> None:
    """Fails unless a greedy call gives what must be said, at least so many tokens of it."""
    wanted = spoken(context, prompt, steps, settings, stops=stops)
    expect_firm(context, len(wanted) >= least, prompt=list(prompt), firm=len(wanted))
    plain = Settings()
    given = {name: value for name, value in asdict(settings).items() if value != getattr(plain, name)}
    result = context.pipeline().generate(list(prompt), max_new_tokens=steps, do_sample=False, **given, **arguments)
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items() if name != "logit_bias")
    equal(result.token_ids[0][: len(wanted)], wanted, f"the tokens after {list(prompt)} with {shown or 'a bias'}")


@contextmanager
def changed_folder(context: Context) -> Iterator[Path]:
    """A copy of the text model's folder, to be changed before ``context.pipeline`` opens it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "text"
        shutil.copytree(context.golden("text").folder, folder)
        yield folder
        # Before the folder goes.
        context.end_check()
