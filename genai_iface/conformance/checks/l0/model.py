# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 0: what a loaded model and its cache say of themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, Subject
from genai_iface.conformance._failure import ConformanceFailure, NotApplicable, equal, expect
from genai_iface.conformance._golden import manifest
from genai_iface.conformance.checks.l0.backend import expect_signatures
from genai_iface.conformance.registry import check
from genai_iface.errors import UnsupportedCapabilityError
from genai_iface.protocols import KVCache, Model, SupportsFork, SupportsInspect, SupportsSave

__all__: list[str] = []


@check("L0.model.signatures", spec=["Interface.1"])
def model_signatures(context: Context) -> None:
    """The model has the members of the protocol, with their parameters."""
    model = context.subject().model
    expect_signatures(model, Model, ("create_cache", "forward", "close"))
    for name in ("spec", "device", "capabilities"):
        expect(not callable(getattr(model, name, None)), f"Model.{name} is missing or no property")


@check("L0.cache.signatures", spec=["Interface.1"])
def cache_signatures(context: Context) -> None:
    """The cache has the members of the protocol, with their parameters."""
    cache = context.cache(context.subject(), capacity=4)
    expect_signatures(cache, KVCache, ("can_rewind_to", "rewind_to", "reorder", "reset", "close"))
    for name in ("batch_size", "capacity", "lengths", "nbytes", "bytes_per_token", "update_mode"):
        value = getattr(cache, name, None)
        expect(value is not None and not callable(value), f"KVCache.{name} is missing or no property")


@check("L0.model.spec", spec=["Model.spec.1"])
def spec(context: Context) -> None:
    """Model.spec says what the golden models are: vocabulary, context length, layers, heads."""
    for name in ("base", "group3", "head64"):
        subject = context.subject(name)
        facts = manifest()["models"][name]
        got = subject.model.spec
        equal(got.vocab_size, subject.golden.logits.shape[-1], f"{name}: vocab_size")
        equal(got.context_length, subject.golden.context_length, f"{name}: context_length")
        layers = [(layer.num_kv_heads, layer.key_head_dim, layer.value_head_dim) for layer in got.cache.layers]
        heads = facts["num_kv_heads"], facts["head_dim"], facts["head_dim"]
        equal(layers, [heads] * facts["layers"], f"{name}: (num_kv_heads, key_head_dim, value_head_dim) per layer")


@check("L0.model.capabilities_subset", spec=["Model.capabilities.1"])
def capabilities_subset(context: Context) -> None:
    """A model declares nothing that its backend does not."""
    for name in ("base", "rank3", "ring"):
        try:
            model = context.subject(name).model
        except (NotApplicable, UnsupportedCapabilityError):
            continue
        extra = sorted(set(model.capabilities) - set(context.info.capabilities))
        expect(not extra, f"{name}: the model declares what the backend does not", names=extra)


@check("L0.model.device", spec=["Model.device.1"])
def device(context: Context) -> None:
    """Without a device the first of devices() is used."""
    model = context.keep(context.backend.load(context.golden().folder))
    equal(model.device.identifier, context.backend.devices()[0].identifier, "Model.device")


@check("L0.capabilities.protocols", spec=["Model.capabilities.2"])
def protocols(context: Context) -> None:
    """Declared optional abilities are there: fork(), read(), save_cache() and load_cache()."""
    subject = context.subject()
    cache = context.cache(subject, capacity=4)
    can = subject.model.capabilities
    for capability, thing, protocol in (
        (Capability.FORK, cache, SupportsFork),
        (Capability.INSPECT, cache, SupportsInspect),
        (Capability.SAVE, subject.model, SupportsSave),
    ):
        if capability in can:
            expect(isinstance(thing, protocol), f"{capability} is declared, but {protocol.__name__} is not implemented")


@check("L0.capabilities.declared", core="Callers plan by what is declared.", spec=["Model.capabilities.2"])
def declared(context: Context) -> None:
    """No declared ability is refused."""
    _try_all(context, declared=True)


@check("L0.capabilities.undeclared", spec=["Model.capabilities.2"])
def undeclared(context: Context) -> None:
    """What is not declared works or raises UnsupportedCapabilityError; it never gives a wrong answer."""
    _try_all(context, declared=False)


def _try_all(context: Context, *, declared: bool) -> None:
    subject = context.subject()
    can = subject.model.capabilities
    uses: dict[Capability, Callable[[Context, Subject], None]] = {
        Capability.BATCH: _use_batch,
        Capability.RAGGED: _use_ragged,
        Capability.CHUNKED_PREFILL: _use_chunks,
        Capability.LOGITS_ALL: _use_all_logits,
        Capability.REWIND: _use_rewind,
        Capability.REORDER: _use_reorder,
    }
    for capability, use in uses.items():
        if (capability in can) is not declared:
            continue
        try:
            use(context, subject)
        except UnsupportedCapabilityError as error:
            if declared:
                raise ConformanceFailure(f"{capability} is declared and then refused: {error}") from error


def _use_batch(context: Context, subject: Subject) -> None:
    cache = context.cache(subject, 2, 8)
    got = subject.model.forward(subject.golden.tokens[:2, :3], cache)
    for row in range(2):
        subject.near(got[row, 0], row, 3, f"logits of row {row} of a batch")


def _use_ragged(context: Context, subject: Subject) -> None:
    can_batch = Capability.BATCH in subject.model.capabilities
    rows = 2 if can_batch else 1
    cache = context.cache(subject, rows, 8)
    got = subject.model.forward(subject.golden.tokens[:rows, :4], cache, counts=np.array([2, 4][:rows]))
    subject.near(got[0, 0], 0, 2, "logits of the shorter row of a ragged step")


def _use_chunks(context: Context, subject: Subject) -> None:
    cache = context.cache(subject, 1, 8)
    subject.model.forward(subject.golden.tokens[:1, :3], cache)
    got = subject.model.forward(subject.golden.tokens[:1, 3:6], cache)
    subject.near(got[0, 0], 0, 6, "logits after a second chunk")


def _use_all_logits(context: Context, subject: Subject) -> None:
    cache = context.cache(subject, 1, 8)
    got = subject.model.forward(subject.golden.tokens[:1, :4], cache, logits="all")
    for length in range(1, 5):
        subject.near(got[0, length - 1], 0, length, f'logits="all" at position {length - 1}')


def _use_rewind(context: Context, subject: Subject) -> None:
    tokens = subject.golden.tokens
    cache = context.cache(subject, 1, 8)
    subject.model.forward(tokens[1:2, :4], cache)
    cache.rewind_to(0)
    subject.near(subject.model.forward(tokens[:1, :3], cache)[0, 0], 0, 3, "logits after a rewind")


def _use_reorder(context: Context, subject: Subject) -> None:
    tokens = subject.golden.tokens
    cache = context.cache(subject, 1, 8)
    subject.model.forward(tokens[:1, :3], cache)
    cache.reorder([0])
    subject.near(subject.model.forward(tokens[:1, 3:4], cache)[0, 0], 0, 4, "logits after a reorder")
