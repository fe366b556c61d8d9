# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Level 3: logits against float64 references, over the shapes that models have."""

from __future__ import annotations

import numpy as np

from genai_iface.capabilities import Capability
from genai_iface.conformance._context import Context, Subject
from genai_iface.conformance._failure import equal, expect
from genai_iface.conformance.registry import CheckFunction, check

__all__ = ["MODELS", "own_logits"]

MODELS = {
    "base": ("two_layers", "Two layers, rank-4 cache, two query heads per key/value head"),
    "rank3": ("rank3_layout", "The same weights with a rank-3 cache and fixed positions"),
    "group1": ("group_size_1", "As many key/value heads as query heads"),
    "group3": ("group_size_3", "Three query heads per key/value head"),
    "group8": ("group_size_8", "Eight query heads on one key/value head"),
    "head64": ("head_dim_64", "Head size 64"),
    "head80": ("head_dim_80", "Head size 80, no power of two"),
    "head128": ("head_dim_128", "Head size 128"),
    "head256": ("head_dim_256", "Head size 256"),
    "partial": ("partial_rotary", "Half of each head is rotated"),
    "softcap": ("softcap", "Attention scores are capped"),
    "text": ("text", "The model of level 4"),
}
"""Golden models of linear caches: check and title."""

_FORMS = {
    "masked": "Positions and the lengths of rows come as position_ids and attention_mask",
    "experts": "Each token goes to two of four experts",
    "quantized": "Weights in blocks of four and eight bits with zero points",
}


def _agrees(context: Context, name: str, dtype: str | None = None) -> None:
    """Fails unless prompt, chunk and decode steps give the reference logits."""
    subject = context.subject(name, dtype)
    if context.profile == "generator":
        own_logits(context, subject)
        return
    tokens = subject.golden.tokens
    length = tokens.shape[1]
    can = subject.model.capabilities
    first = length // 2
    cache = context.cache(subject, capacity=length)
    got = subject.model.forward(tokens[:1, :first], cache, logits="all" if Capability.LOGITS_ALL in can else "last")
    equal(str(got.dtype), "float32", "the dtype of the logits")
    for index in range(got.shape[1]):
        place = first - got.shape[1] + index + 1
        subject.near(got[0, index], 0, place, f"{name}: logits of a prompt, position {place - 1}")
    if Capability.CHUNKED_PREFILL in can:
        got = subject.model.forward(tokens[:1, first : first + 3], cache)
        first += 3
        subject.near(got[0, 0], 0, first, f"{name}: logits after a chunk")
    for place in range(first, length):
        got = subject.model.forward(tokens[:1, place : place + 1], cache)
        subject.near(got[0, 0], 0, place + 1, f"{name}: logits of the decode step at position {place}")


def own_logits(context: Context, subject: Subject) -> None:
    """Fails unless a runtime's generator shows the reference logits after a prompt, and after tokens one by one."""
    golden = subject.golden
    tokens = golden.tokens[0].tolist()
    first = len(tokens) // 2
    generator = context.generator(subject)
    generator.append_tokens(tokens[:first])
    for place in range(first, len(tokens) + 1):
        if place > first:
            generator.append_tokens(tokens[place - 1 : place])
        got = generator.get_logits()
        equal(got.shape, (1, subject.vocab_size), "the shape of get_logits()")
        subject.near(got[0], 0, place, f"{golden.name}: get_logits() after {place} tokens")


def _runner(name: str) -> CheckFunction:
    return lambda context: _agrees(context, name)


for _name, (_check, _title) in MODELS.items():
    check(
        f"L3.golden.{_check}",
        profiles=("step", "generator"),
        spec=["Model.forward.1"],
        title=_title,
        core="Wrong logits are wrong answers.",
    )(_runner(_name))

for _name, _title in _FORMS.items():
    check(f"L3.golden.{_name}", profiles=("step", "generator"), spec=["Model.forward.1"], title=_title)(_runner(_name))


@check(
    "L3.golden.circular",
    core="Wrong logits are wrong answers.",
    requires=[Capability.CACHE_CIRCULAR],
    spec=["Model.forward.1"],
)
def circular(context: Context) -> None:
    """A ring of 8 positions over 24 tokens."""
    subject = context.subject("ring")
    tokens = subject.golden.tokens
    for row in range(3):
        cache = context.cache(subject, capacity=24)
        got = subject.model.forward(tokens[row : row + 1, :5], cache)
        for place in range(5, 24):
            subject.near(got[0, 0], row, place, f"ring: logits at position {place - 1} of row {row}")
            got = subject.model.forward(tokens[row : row + 1, place : place + 1], cache)


@check("L3.golden.long_context", core="Wrong logits are wrong answers.", spec=["Model.forward.1", "Model.forward.6"])
def long_context(context: Context) -> None:
    """4096 tokens in chunks, and the last ones token by token."""
    subject = context.subject("long")
    tokens = subject.golden.tokens[:1]
    length, keep = tokens.shape[1], subject.golden.logits.shape[1]
    cache = context.cache(subject, capacity=length + 4)
    can_chunk = Capability.CHUNKED_PREFILL in subject.model.capabilities
    begin = length - keep
    for start in range(0, begin, 512 if can_chunk else begin):
        stop = min(start + 512, begin) if can_chunk else begin
        subject.model.forward(tokens[:, start:stop], cache, logits="none")
    for place in range(begin, length):
        got = subject.model.forward(tokens[:, place : place + 1], cache)
        subject.near(got[0, 0], 0, place + 1, f"logits at position {place}")


@check("L3.dtype.float16", spec=["Model.forward.1"])
def float16(context: Context) -> None:
    """float16 weights and cache, where they are declared."""
    _agrees(context, "base", "float16")


@check("L3.dtype.bfloat16", spec=["Model.forward.1"])
def bfloat16(context: Context) -> None:
    """bfloat16 weights and cache, where they are declared."""
    _agrees(context, "base", "bfloat16")


@check(
    "L3.logits.last_is_last_of_all",
    core="Generation reads the one, verification the other.",
    requires=[Capability.LOGITS_ALL],
    spec=["Model.forward.1"],
)
def last_is_last_of_all(context: Context) -> None:
    """logits="last" is the last real row of logits="all"."""
    subject = context.subject()
    tokens = subject.golden.tokens
    ragged = Capability.RAGGED in subject.model.capabilities and Capability.BATCH in subject.model.capabilities
    rows = 3 if ragged else 1
    counts = np.array([7, 2, 4][:rows])
    results = {}
    for mode in ("all", "last"):
        cache = context.cache(subject, rows, 8)
        results[mode] = subject.model.forward(tokens[:rows, :7], cache, counts=counts, logits=mode)
    equal(results["all"].shape, (rows, 7, subject.model.spec.vocab_size), 'shape of logits="all"')
    equal(results["last"].shape, (rows, 1, subject.model.spec.vocab_size), 'shape of logits="last"')
    for row, count in enumerate(counts.tolist()):
        error = float(np.abs(results["all"][row, count - 1] - results["last"][row, 0]).max())
        tolerance = subject.golden.tolerance
        expect(
            error <= tolerance, f'"last" is not the last of "all" in row {row}', max_error=error, tolerance=tolerance
        )
        subject.near(results["last"][row, 0], row, count, f'logits="last" of row {row}')


@check("L3.logits.none", spec=["Model.forward.2"])
def none(context: Context) -> None:
    """logits="none" gives no rows, and the step counts all the same."""
    subject = context.subject()
    cache = context.cache(subject, capacity=8)
    got = subject.model.forward(subject.golden.tokens[:1, :4], cache, logits="none")
    equal(got.shape, (1, 0, subject.model.spec.vocab_size), 'shape of logits="none"')
    equal(cache.lengths, [4], "lengths after a step without logits")
    got = subject.model.forward(subject.golden.tokens[:1, 4:5], cache)
    subject.near(got[0, 0], 0, 5, "logits after a step without logits")


@check("L3.logits.finite", spec=["Model.forward.8"])
def finite(context: Context) -> None:
    """Logits of real tokens are float32 and finite."""
    subject = context.subject()
    got = subject.model.forward(subject.golden.tokens[:1], context.cache(subject, capacity=24))
    equal(str(got.dtype), "float32", "the dtype of the logits")
    expect(isinstance(got, np.ndarray), "the logits are not a NumPy array", got=type(got).__name__)
    expect(np.isfinite(got).all(), "logits are not finite", num_wrong=int((~np.isfinite(got)).sum()))
