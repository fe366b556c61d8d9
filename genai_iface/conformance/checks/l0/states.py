# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 0: what models that keep states say of themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context
from genai_iface.conformance._failure import ConformanceFailure, equal, expect, raises
from genai_iface.conformance._golden import manifest
from genai_iface.conformance.checks.l0.backend import expect_signatures
from genai_iface.conformance.checks.l2._state_models import LINEAR, MODELS, near_next, state_subject
from genai_iface.conformance.registry import check
from genai_iface.errors import CacheRewindError, UnsupportedCapabilityError
from genai_iface.protocols import SupportsCheckpoint

__all__: list[str] = []

_STATE = (Capability.STATE,)


@check("L0.state.declared", requires=_STATE, spec=["State.8", "Model.capabilities.1"])
def declared(context: Context) -> None:
    """Models that keep states declare so, and no rewind to any length; others do not speak of states."""
    for name in MODELS:
        model = state_subject(context, name).model
        can = {str(capability) for capability in model.capabilities}
        expect("state" in can, f"{name!r} keeps states and does not declare it")
        expect("rewind" not in can, f"{name!r} keeps states and declares rewinds to any length")
        extra = sorted(can - {str(capability) for capability in context.info.capabilities})
        expect(not extra, f"{name!r} declares what its backend does not", names=extra)
    plain = context.subject().model
    told = sorted({"state", "rewind_step", "checkpoint"} & {str(capability) for capability in plain.capabilities})
    expect(not told, "a model of attention alone speaks of states", names=told)
    equal(len(plain.spec.cache.states), 0, "the number of states of a model of attention alone")


@check("L0.state.spec", requires=_STATE, spec=["State.9", "Model.spec.1"])
def spec(context: Context) -> None:
    """CacheSpec.states says what the golden models keep; what has no attention has no layers of a cache."""
    for name in MODELS:
        subject = state_subject(context, name)
        facts = manifest()["states"][f"states-{name}"]
        got = subject.model.spec.cache
        wanted = [
            (
                fact["kind"],
                tuple(fact["shape"]),
                subject.golden.dtype if fact["dtype"] == "model" else fact["dtype"],
                fact["layer"],
            )
            for fact in facts["states"]
        ]
        states = [(state.kind, tuple(state.shape), state.dtype, state.layer) for state in got.states]
        equal(states, wanted, f"{name}: (kind, shape, dtype, layer) of each state")
        num_layers = facts["mixers"].count("attention")
        equal(len(got.layers), num_layers, f"{name}: the number of layers with keys and values")
        cache = context.cache(subject, 1, 16)
        equal(cache.bytes_per_token, got.bytes_per_token, f"{name}: bytes_per_token of a cache")
        expect(bool(cache.bytes_per_token) is bool(num_layers), f"{name}: tokens take memory in layers that are not")


@check("L0.state.protocol", requires=[*_STATE, Capability.CHECKPOINT], spec=["Model.capabilities.2", "Interface.1"])
def protocol(context: Context) -> None:
    """Declared checkpoints are there: the methods of SupportsCheckpoint, with their parameters."""
    for name in MODELS:
        subject = state_subject(context, name)
        if Capability.CHECKPOINT not in subject.model.capabilities:
            continue
        cache: Any = context.cache(subject, 1, 8)
        expect(isinstance(cache, SupportsCheckpoint), f"{name!r} declares checkpoints and has not all of their methods")
        expect_signatures(cache, SupportsCheckpoint, ("checkpoint", "checkpoints", "drop"))
        expect(not callable(cache.bytes_per_row), "bytes_per_row is no property")


@check("L0.state.works", requires=_STATE, spec=["Model.capabilities.2"])
def works(context: Context) -> None:
    """No ability that a model with states declares is refused on it."""
    uses: dict[Capability, Callable[[Any], object]] = {
        Capability.REWIND_STEP: lambda cache: cache.rewind_to(3),
        Capability.CHECKPOINT: lambda cache: cache.checkpoint(),
        Capability.REORDER: lambda cache: cache.reorder([0]),
        Capability.FORK: lambda cache: context.keep(cache.fork()),
    }
    for name in LINEAR:
        subject = state_subject(context, name)
        for capability, use in uses.items():
            if capability not in subject.model.capabilities:
                continue
            cache = context.cache(subject, 1, 16)
            subject.model.forward(subject.golden.tokens[:1, :3], cache)
            subject.model.forward(subject.golden.tokens[:1, 3:5], cache)
            try:
                use(cache)
            except (UnsupportedCapabilityError, CacheRewindError) as error:
                raise ConformanceFailure(f"{name!r} declares {capability} and refuses it: {error}") from error
            length = int(cache.lengths[0])
            near_next(subject, cache, [length], f"of {name!r} after a use of {capability}")


@check("L0.state.refusal", requires=_STATE, spec=["State.10", "KVCache.rewind_to.1"])
def refusal(context: Context) -> None:
    """A rewind that cannot be is refused with row, lengths, and those that can be reached."""
    for name in LINEAR:
        subject = state_subject(context, name)
        cache = context.cache(subject, 1, 16)
        for begin, end in ((0, 4), (4, 7), (7, 8)):
            subject.model.forward(subject.golden.tokens[:1, begin:end], cache)
        reachable = {length for length in range(9) if cache.can_rewind_to(length)}
        for length in sorted(set(range(9)) - reachable):
            error = raises(CacheRewindError, lambda at=length, held=cache: held.rewind_to(at), f"rewind_to({length})")  # type: ignore[misc]
            equal((error.row, error.requested, error.length), (0, length, 8), "(row, requested, length) of the error")
            numbers = {int(number) for number in re.findall(r"\d+", str(error))}
            expect(reachable <= numbers, "the error does not say which lengths can be reached", message=str(error))
