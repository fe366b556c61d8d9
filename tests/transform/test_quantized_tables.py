# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""GatherQuantized and SeparateDequantization: the same bits, in a form that runtimes fuse."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai_iface.graph._inference import infer_shapes
from genai_iface.transform import GatherQuantized, SeparateDequantization
from tests.models import ModelOptions, build_model
from tests.transform.convert.drive import Drive, load, on_reference, same_steps

ROWS, HIDDEN, BLOCK = 12, 32, 16
KINDS = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-127, 127), "uint8": (0, 256)}


def _table(kind, stored, zeros):
    """Integers, scales and zero points of a table (V, H), or (H, V) if stored that way."""
    random = np.random.default_rng(1)
    dtype = getattr(ml_dtypes, kind) if kind.endswith("4") else np.dtype(kind)
    low, high = KINDS[kind]
    shape, groups = (ROWS, HIDDEN), (ROWS, HIDDEN // BLOCK)
    arrays = [random.integers(low, high, shape), np.abs(random.standard_normal(groups)), random.integers(0, 5, groups)]
    arrays = [array.T if stored == "HV" else array for array in arrays[: 3 if zeros else 2]]
    types = [dtype, np.float32, dtype]
    return [np.ascontiguousarray(array).astype(kind) for array, kind in zip(arrays, types, strict=False)]


def _model(nodes, table, *, ids=("B", "S"), rank=3):
    constants = [numpy_helper.from_array(array, name) for array, name in zip(table, "qsz", strict=False)]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, list(ids))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, list("abc")[:rank])]
    graph = helper.make_graph(nodes, "lookup", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def _names(table):
    return list("qsz"[: len(table)])


@pytest.mark.parametrize(
    ("kind", "stored", "turned", "zeros"),
    list(itertools.product(KINDS, ("VH", "HV"), (False, True), (False, True))),
)
def test_the_rows_are_the_same_to_the_bit(kind, stored, turned, zeros):
    table = _table(kind, stored, zeros)
    blocked = 1 if stored == "VH" else 0
    nodes = [helper.make_node("DequantizeLinear", _names(table), ["t"], axis=blocked, block_size=BLOCK)]
    axis = 1 - blocked
    if turned:
        nodes.append(helper.make_node("Transpose", ["t"], ["u"], perm=[1, 0]))
        axis = blocked
    nodes.append(helper.make_node("Gather", ["u" if turned else "t", "ids"], ["y"], axis=axis))
    proto = _model(nodes, table)
    model = ir.from_proto(proto)
    rewrite = GatherQuantized()
    rewrite(model)
    assert rewrite.note.count == 1, rewrite.note
    feeds = {"ids": np.array([[3, 0], [11, 3], [5, 5]])}
    (wanted,) = on_reference(ir.from_proto(proto))(feeds, ["y"])
    (got,) = on_reference(model)(feeds, ["y"])
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)
    # No four-bit Gather, which ONNX does not have: the checker looks at the types.
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_a_four_bit_gather_is_made_legal():
    table = _table("int4", "HV", zeros=False)
    gathers = [helper.make_node("Gather", [name, "ids"], [f"{name}r"], axis=1) for name in "qs"]
    rows = helper.make_node("DequantizeLinear", ["qr", "sr"], ["y"], axis=0, block_size=BLOCK)
    proto = _model([*gathers, rows], table)
    model = ir.from_proto(proto)
    rewrite = GatherQuantized()
    rewrite(model)
    assert rewrite.note.applied
    feeds = {"ids": np.array([[3, 0], [11, 3]])}
    np.testing.assert_array_equal(
        on_reference(model)(feeds, ["y"])[0], on_reference(ir.from_proto(proto))(feeds, ["y"])[0]
    )
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_blocks_along_the_gathered_axis_are_left_alone():
    table = _table("int8", "VH", zeros=False)
    table[1] = np.ones((ROWS // 4, HIDDEN), np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["t"], axis=0, block_size=4),
        helper.make_node("Gather", ["t", "ids"], ["y"]),
    ]
    model = ir.from_proto(_model(nodes, table))
    rewrite = GatherQuantized()
    rewrite(model)
    assert not rewrite.note.applied
    assert "gathered axis" in rewrite.note.reason


def test_packed_bytes_take_half_of_eight_bits():
    table = _table("int4", "HV", zeros=False)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["t"], axis=0, block_size=BLOCK),
        helper.make_node("Gather", ["t", "ids"], ["y"], axis=1),
    ]
    model = ir.from_proto(_model(nodes, table))
    GatherQuantized()(model)
    (packed,) = [value for name, value in model.graph.initializers.items() if "integers" in name]
    assert packed.const_value.nbytes == ROWS * HIDDEN // 2


def _tied(stored):
    """Embedding and head from one dequantized table."""
    table = _table("int4", stored, zeros=False)
    blocked = 1 if stored == "VH" else 0
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["t"], axis=blocked, block_size=BLOCK)]
    turned = helper.make_node("Transpose", ["t"], ["u"], perm=[1, 0])
    rows, columns = ("t", "u") if stored == "VH" else ("u", "t")
    nodes += [
        turned,
        helper.make_node("Gather", [rows, "ids"], ["x"]),
        helper.make_node("MatMul", ["x", columns], ["y"]),
    ]
    return _model(nodes, table)


@pytest.mark.parametrize("stored", ["VH", "HV"])
def test_a_tied_head_gets_a_matrix_of_its_own(stored):
    proto = _tied(stored)
    model = ir.from_proto(proto)
    passes = [GatherQuantized(), SeparateDequantization()]
    for rewrite in passes:
        rewrite(model)
    assert [rewrite.note.applied for rewrite in passes] == [True, stored == "VH"]
    (product,) = [node for node in model.graph if node.op_type == "MatMul"]
    matrix = product.inputs[1].producer()
    assert (matrix.op_type, matrix.attributes["axis"].value, len(matrix.outputs[0].uses())) == (
        "DequantizeLinear",
        0,
        1,
    )
    assert all(len(part.uses()) == 1 for part in matrix.inputs)
    feeds = {"ids": np.array([[3, 0], [11, 3]])}
    wanted, got = (on_reference(each)(feeds, ["y"])[0] for each in (ir.from_proto(proto), model))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_a_matrix_of_two_products_is_given_to_each():
    table = _table("int4", "HV", zeros=False)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["t"], axis=0, block_size=BLOCK),
        helper.make_node("Cast", ["ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "t"], ["one"]),
        helper.make_node("Neg", ["x"], ["minus"]),
        helper.make_node("MatMul", ["minus", "t"], ["two"]),
        helper.make_node("Mul", ["one", "two"], ["y"]),
    ]
    proto = _model(nodes, table, ids=("B", HIDDEN), rank=2)
    model = ir.from_proto(proto)
    rewrite = SeparateDequantization()
    rewrite(model)
    assert rewrite.note.applied
    readers = [node.inputs[1].producer() for node in model.graph if node.op_type == "MatMul"]
    assert len(set(readers)) == 2
    assert len({part for node in readers for part in node.inputs}) == 4
    feeds = {"ids": np.arange(2 * HIDDEN).reshape(2, HIDDEN)}
    wanted, got = (on_reference(each)(feeds, ["y"])[0] for each in (ir.from_proto(proto), model))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "family", [{"tied": True}, {"layout": "bsh"}, {"style": "concat"}, {"tied": True, "softcap": 2.0}]
)
@pytest.mark.parametrize("quantize", ["int4", "int8"])
def test_logits_are_unchanged(family, quantize):
    proto = build_model(ModelOptions(quantize=quantize, **family))
    before, signature = load(proto)
    model, _ = load(proto)
    infer_shapes(model)
    for rewrite in (GatherQuantized(), SeparateDequantization()):
        rewrite(model)
    batch = 1 if signature.cache.style == "concat" else 3
    drives = [Drive(on_reference(each), signature, batch_size=batch) for each in (before, model)]
    assert same_steps(*drives, ragged=batch == 3) < 1e-4
