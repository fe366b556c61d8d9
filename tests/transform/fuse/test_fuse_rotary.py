# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""FuseRotary, FusePartialRotary and MatchRotaryBatch: one node, the same numbers, and what they refuse."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from genai_iface.transform.fuse import FusePartialRotary, FuseRotary, MatchRotaryBatch
from tests.transform.convert.written_out import END, HEADS, RUNTIMES, SIZE, Rotation, Writer, operators

WRITTEN = {
    "halves": Rotation(),
    "cast": Rotation(dtype="float16"),
    "scaled": Rotation(scale=1.1386),
    "scaled and cast": Rotation(scale=1.1386, dtype="float16"),
    "rotated in float32": Rotation(dtype="float16", wide_x=True),
    "one row of angles": Rotation(one_row=True),
    "heads on axis 2": Rotation(heads_axis=2),
    "neighbours": Rotation("pairs"),
    "neighbours, cast": Rotation("pairs", dtype="float16"),
    "neighbours, heads on axis 2": Rotation("pairs", heads_axis=2, one_row=True),
    "neighbours, two axes at once": Rotation("pairs", heads_axis=2, one_row=True, one_unsqueeze=True),
    "neighbours, heads and repetition at once": Rotation("pairs", one_row=True, one_unsqueeze=True),
    "half-size factors": Rotation("split"),
    "half-size factors, scaled and cast": Rotation("split", scale=0.9, dtype="float16"),
    "every other element to halves": Rotation("strided"),
    "every other element and back": Rotation("stacked"),
}
TOLERANCE = {"float32": 2e-6, "float16": 6e-3}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_written_out_rotation_becomes_one_node_with_the_same_numbers(name, runtime):
    written = WRITTEN[name]
    model, arrays = written.build(), written.arrays()
    before = RUNTIMES[runtime](model, arrays)
    rewrite = FuseRotary()
    rewrite(model)
    counts = operators(model)
    assert rewrite.note.count == counts["RotaryEmbedding"] == 1, rewrite.note
    assert not counts["Neg"]
    assert not counts["Sub"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = RUNTIMES[runtime](model, arrays)
    assert after.dtype == before.dtype == written.dtype
    scale = written.scale or 1.0
    assert np.abs(before - written.expected()).max() < TOLERANCE[written.dtype] * scale * 2
    assert np.abs(after - written.expected()).max() < TOLERANCE[written.dtype] * scale * 2


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "written",
    [
        Rotation(rotated=8),
        Rotation("pairs", rotated=8),
        Rotation("pairs", rotated=8, heads_axis=2),
        Rotation(rotated=8, dtype="float16"),
        Rotation("split", rotated=12),
    ],
    ids=str,
)
def test_a_partial_rotation_takes_the_whole_head(written, runtime):
    model, arrays = written.build(), written.arrays()
    FuseRotary()(model)
    rewrite = FusePartialRotary()
    rewrite(model)
    counts = operators(model)
    assert rewrite.note.count == counts["RotaryEmbedding"] == 1, rewrite.note
    (node,) = (node for node in model.graph if node.op_type == "RotaryEmbedding")
    assert node.attributes["rotary_embedding_dim"].as_int() == written.rotated
    assert not counts["Slice"]
    after = RUNTIMES[runtime](model, arrays)
    assert np.abs(after - written.expected()).max() < 2 * TOLERANCE[written.dtype]


def _unequal_halves(w):
    cos = w("Cos", "angles")
    halves = w("Concat", cos, w("Mul", cos, np.float32(0.5)), axis=-1)
    return w("Unsqueeze", halves, [1])


def _by_parameter(w):
    # Equal halves, then a factor for each element: the halves are no longer equal.
    cos = w("Cos", "angles")
    scaled = w("Mul", w("Concat", cos, cos, axis=-1), np.arange(SIZE, dtype=np.float32))
    return w("Unsqueeze", scaled, [1])


def _computed_elsewhere(w):
    return "cos"


@pytest.mark.parametrize("factor", [_unequal_halves, _by_parameter, _computed_elsewhere])
def test_factors_whose_halves_are_not_known_to_be_equal_are_refused(factor):
    w = Writer()
    cos = factor(w)
    turned = w("Concat", w("Neg", w("Slice", "x", [8], [END], [3], [1])), w("Slice", "x", [0], [8], [3], [1]), axis=-1)
    y = w("Add", w("Mul", "x", cos), w("Mul", turned, cos))
    inputs = {
        "x": (TensorProto.FLOAT, ["B", HEADS, "S", SIZE]),
        "angles": (TensorProto.FLOAT, ["B", "S", SIZE // 2]),
        "cos": (TensorProto.FLOAT, ["B", 1, "S", SIZE]),
    }
    model = w.model(inputs, y, TensorProto.FLOAT)
    nodes = len(list(model.graph))
    rewrite = FuseRotary()
    rewrite(model)
    assert not rewrite.note.applied
    assert len(list(model.graph)) == nodes


@pytest.mark.parametrize(
    ("first", "second", "sign"),
    [((0, 6), (6, END), "Neg"), ((0, 8), (8, END), "Identity"), ((8, END), (0, 8), "Neg")],
    ids=["unequal parts", "no minus", "parts exchanged"],
)
def test_what_only_looks_like_a_rotation_is_refused(first, second, sign):
    w = Writer()
    angles = w("Concat", "angles", "angles", axis=-1)
    cos, sin = (w("Unsqueeze", w(kind, angles), [1]) for kind in ("Cos", "Sin"))
    low, high = (w("Slice", "x", [a], [b], [3], [1]) for a, b in (first, second))
    turned = w("Concat", w(sign, high), low, axis=-1)
    y = w("Add", w("Mul", "x", cos), w("Mul", turned, sin))
    inputs = {
        "x": (TensorProto.FLOAT, ["B", HEADS, "S", SIZE]),
        "angles": (TensorProto.FLOAT, ["B", "S", SIZE // 2]),
    }
    model = w.model(inputs, y, TensorProto.FLOAT)
    rewrite = FuseRotary()
    rewrite(model)
    assert not rewrite.note.applied


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_caches_of_one_row_are_repeated_for_every_row(runtime):
    w = Writer()
    y = w("RotaryEmbedding", "x", w("Cos", "angles"), w("Sin", "angles"))
    inputs = {
        "x": (TensorProto.FLOAT, ["B", HEADS, "S", SIZE]),
        "angles": (TensorProto.FLOAT, [1, "S", SIZE // 2]),
    }
    model = w.model(inputs, y, TensorProto.FLOAT)
    draw = np.random.default_rng(1)
    x, angles = draw.standard_normal((3, HEADS, 5, SIZE)), draw.standard_normal((1, 5, SIZE // 2))
    arrays = {"x": x.astype(np.float32), "angles": angles.astype(np.float32)}
    rewrite = MatchRotaryBatch()
    rewrite(model)
    assert rewrite.note.count == 1, rewrite.note
    got = RUNTIMES[runtime](model, arrays)
    turned = (x[..., :8] + 1j * x[..., 8:]) * np.exp(1j * angles[:, None])
    np.testing.assert_allclose(got, np.concatenate([turned.real, turned.imag], -1), atol=2e-6)


def test_caches_with_as_many_rows_as_the_input_are_left_alone():
    w = Writer()
    y = w("RotaryEmbedding", "x", w("Cos", "angles"), w("Sin", "angles"))
    inputs = {
        "x": (TensorProto.FLOAT, ["B", HEADS, "S", SIZE]),
        "angles": (TensorProto.FLOAT, ["B", "S", SIZE // 2]),
    }
    rewrite = MatchRotaryBatch()
    rewrite(w.model(inputs, y, TensorProto.FLOAT))
    assert not rewrite.note.applied


@pytest.mark.parametrize("start", [7, 9], ids=["overlap", "gap"])
def test_a_partial_rotation_whose_parts_do_not_cover_the_head_is_refused(start):
    w = Writer()
    rotated = w("RotaryEmbedding", w("Slice", "x", [0], [8], [3], [1]), w("Cos", "angles"), w("Sin", "angles"))
    y = w("Concat", rotated, w("Slice", "x", [start], [END], [3], [1]), axis=-1)
    inputs = {"x": (TensorProto.FLOAT, ["B", HEADS, "S", SIZE]), "angles": (TensorProto.FLOAT, ["B", "S", 4])}
    rewrite = FusePartialRotary()
    rewrite(w.model(inputs, y, TensorProto.FLOAT))
    assert not rewrite.note.applied


@pytest.mark.parametrize(
    ("x", "angles"),
    [
        ([1, HEADS, "S", SIZE], ["B", "S", SIZE // 2]),
        (["B", HEADS, "S", SIZE], ["B", 1, SIZE // 2]),
    ],
    ids=["one row becomes many", "one position for all"],
)
def test_factors_that_broadcast_over_more_than_the_heads_are_refused(x, angles):
    w = Writer()
    both = w("Concat", "angles", "angles", axis=-1)
    cos, sin = (w("Unsqueeze", w(kind, both), [1]) for kind in ("Cos", "Sin"))
    low, high = (w("Slice", "x", [a], [b], [3], [1]) for a, b in ((0, 8), (8, END)))
    y = w("Add", w("Mul", "x", cos), w("Mul", w("Concat", w("Neg", high), low, axis=-1), sin))
    model = w.model({"x": (TensorProto.FLOAT, x), "angles": (TensorProto.FLOAT, angles)}, y, TensorProto.FLOAT)
    rewrite = FuseRotary()
    rewrite(model)
    assert not rewrite.note.applied


def test_an_opset_without_the_operator_is_left_alone():
    model = Rotation().build()
    model.opset_imports[""] = 22
    rewrite = FuseRotary()
    rewrite(model)
    assert not rewrite.note.applied
    assert "opset 22" in rewrite.note.reason
