# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""MultiHeadAttention against ONNX Runtime's kernel: forms of its input, masks, biases, past."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from genai_iface.errors import UnsupportedModelError
from tests.transform.contrib.one_node import on_ort, one_node, same, standard

ROWS, HEADS, SIZE, NEW, PAST = 2, 3, 8, 4, 5
WIDE = HEADS * SIZE
RANDOM = np.random.default_rng(0)
SLOTS = ("query", "key", "value", "bias", "padding", "scores", "past_key", "past_value")


def draw(*shape: int) -> NDArray[np.float32]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def attention(feeds: dict[str, NDArray[Any]], *, presents: bool = False, **attributes: Any) -> ir.Model:
    weights = {name: feeds.pop(name) for name in ("bias",) if name in feeds}
    names = [name if name in feeds or name in weights else "" for name in SLOTS]
    while not names[-1]:
        names.pop()
    used = (0, 1, 2) if presents else (0,)
    return one_node(
        "MultiHeadAttention",
        names,
        feeds,
        weights,
        outputs=3 if presents else 1,
        used=used,
        num_heads=HEADS,
        **attributes,
    )


def plain(*, keys: int = NEW) -> dict[str, NDArray[Any]]:
    return {"query": draw(ROWS, NEW, WIDE), "key": draw(ROWS, keys, WIDE), "value": draw(ROWS, keys, WIDE)}


def past() -> dict[str, NDArray[Any]]:
    return {f"past_{name}": draw(ROWS, HEADS, PAST, SIZE) for name in ("key", "value")}


@pytest.mark.parametrize("unidirectional", [0, 1])
@pytest.mark.parametrize("with_past", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("scale", [0.0, 0.3])
def test_causality_past_and_bias(scale: float, with_bias: bool, with_past: bool, unidirectional: int) -> None:
    feeds = plain() | (past() if with_past else {}) | ({"bias": draw(3 * WIDE)} if with_bias else {})
    model = attention(feeds, presents=with_past, unidirectional=unidirectional, scale=scale)
    same(model, feeds)


@pytest.mark.parametrize("value", [-10000.0, -3.0])
@pytest.mark.parametrize("with_past", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
def test_padding_masks(axes: int, with_past: bool, value: float) -> None:
    total = NEW + (PAST if with_past else 0)
    feeds = plain() | (past() if with_past else {})
    shape = (ROWS, total) if axes == 2 else (ROWS, NEW, total)
    feeds["padding"] = RANDOM.integers(0, 2, shape).astype(np.int32)
    same(attention(feeds, presents=with_past, mask_filter_value=value), feeds)


@pytest.mark.parametrize("shape", [(1, 1), (ROWS, 1), (1, HEADS), (ROWS, HEADS)])
@pytest.mark.parametrize("padded", [False, True])
def test_biases_on_scores(shape: tuple[int, int], padded: bool) -> None:
    feeds = plain() | past() | {"scores": draw(*shape, NEW, NEW + PAST)}
    if padded:
        feeds["padding"] = RANDOM.integers(0, 2, (ROWS, NEW + PAST)).astype(np.int32)
    same(attention(feeds, presents=True), feeds)


@pytest.mark.parametrize("place", [0, 1])
def test_packed_projections(place: int) -> None:
    """ONNX Runtime's kernel for the processor takes none: they equal three inputs."""
    names, count = list(SLOTS[place:3]), 3 - place
    packed = draw(ROWS, NEW, HEADS, count, SIZE)
    parts = {name: packed[..., index, :].reshape(ROWS, NEW, WIDE) for index, name in enumerate(names)}
    query = {"query": draw(ROWS, NEW, WIDE)} if place else {}
    (wanted,) = on_ort(attention(query | parts), query | parts)
    feeds = query | {names[0]: packed}
    (got,) = on_ort(standard(attention(feeds)), feeds)
    assert np.abs(got - wanted).max() < 1e-5


def test_keys_of_another_sequence_with_heads_apart() -> None:
    feeds = {"query": draw(ROWS, NEW, WIDE), "key": draw(ROWS, HEADS, 6, SIZE), "value": draw(ROWS, HEADS, 6, SIZE)}
    same(attention(feeds), feeds)


def test_values_of_their_own_size() -> None:
    feeds = plain(keys=6) | {"value": draw(ROWS, 6, HEADS * 5)}
    same(attention(feeds), feeds)


def test_lengths_of_rows_that_may_be_something_else_are_refused() -> None:
    feeds = plain() | {"padding": np.array([3, 2], np.int32)}
    with pytest.raises(UnsupportedModelError, match=r"MultiHeadAttention node 'the_node'.*rank 1"):
        standard(attention(feeds))


def test_lengths_of_rows() -> None:
    feeds = plain() | {"padding": np.array([3, 2], np.int32)}
    model = attention(feeds)
    model.graph.inputs[0].shape = ir.Shape(["B", "S", WIDE])
    model.graph.inputs[3].shape = ir.Shape(["B"])
    same(model, feeds)
