# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 4: generators of a runtime that owns the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.config import GenerationConfig
from genai_iface.conformance._context import Context, runtime_generator
from genai_iface.conformance._failure import equal, expect
from genai_iface.conformance._golden import Golden
from genai_iface.conformance.registry import check
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.protocols import Generator

_NEEDS = (Capability.GENERATOR,)
_PROFILES = ("step", "generator")
_STEPS = 6


def _begin(context: Context, golden: Golden, *, capacity: int | None = None, **fields: Any) -> Generator:
    generator = runtime_generator(context, golden, config=GenerationConfig(**fields), capacity=capacity)
    return context.keep(generator)  # type: ignore[no-any-return]


@check("L4.runtime.independent", requires=_NEEDS, profiles=_PROFILES, spec=["SupportsGenerator.generator.1"])
def independent(context: Context) -> None:
    """Generators begin without tokens and do not see each other."""
    golden = context.golden()
    one, two = _begin(context, golden), _begin(context, golden)
    equal(one.token_count(), 0, "the length of a new generator's sequence")
    one.append_tokens(golden.greedy_prompt)
    equal(two.token_count(), 0, "the length of a generator's sequence after tokens went to another")
    two.append_tokens(golden.greedy_prompt[:1])
    for _ in range(_STEPS):
        one.generate_next_token()
        two.generate_next_token()
    got = one.get_sequence(0)[len(golden.greedy_prompt) :]
    equal(got, golden.greedy[:_STEPS], "the greedy tokens beside another generator")


@check("L4.runtime.fields", requires=_NEEDS, profiles=_PROFILES, spec=["SupportsGenerator.generator.2"])
def fields(context: Context) -> None:
    """What the configuration says about the choice of a token is done or refused by name."""
    golden = context.golden()
    best = golden.greedy[0]
    other = best - 1 if best else 1
    cases: list[tuple[str, Any, Callable[[int], bool]]] = [
        ("bad_words_ids", [[best], [best, best]], lambda token: token != best),
        ("logit_bias", {other: 1e6}, lambda token: token == other),
        ("repetition_penalty", 1e6, lambda token: token not in golden.greedy_prompt),
    ]
    for name, value, is_right in cases:
        try:
            generator = _begin(context, golden, **{name: value})
            generator.append_tokens(golden.greedy_prompt)
            generator.generate_next_token()
        except UnsupportedCapabilityError as error:
            expect(name in str(error), f"the refusal of {name} does not name it", message=str(error))
            continue
        (token,) = generator.get_next_tokens()
        expect(token is not None and is_right(token), f"{name} was ignored", token=token)


@check("L4.runtime.capacity", requires=_NEEDS, profiles=_PROFILES, spec=["SupportsGenerator.generator.3"])
def capacity(context: Context) -> None:
    """A sequence ends with "length" before it outgrows its capacity."""
    golden = context.golden()
    room = len(golden.greedy_prompt) + _STEPS
    generator = _begin(context, golden, capacity=room)
    generator.append_tokens(golden.greedy_prompt)
    for _ in range(2 * _STEPS):
        if generator.is_done():
            break
        generator.generate_next_token()
    expect(generator.token_count() <= room, "the sequence outgrew its capacity", capacity=room)
    equal(generator.finish_reasons, ("length",), "the reason at the end of the capacity")
