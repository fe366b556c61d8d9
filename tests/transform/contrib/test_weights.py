# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Packed weights keep their integers: MatMulNBits, GatherBlockQuantized, MatMulBnb4 against ONNX Runtime's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import helper

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._edit import constant_array
from tests.transform.contrib.one_node import one_node, same, standard


def packed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes of the last axis in bytes, low bits first, the last byte filled with zeros."""
    each = 8 // bits
    missing = -codes.shape[-1] % each
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, missing)])
    parts = padded.reshape(*padded.shape[:-1], -1, each)
    total = sum(parts[..., place].astype(np.uint16) << (bits * place) for place in range(each))
    return np.asarray(total, np.uint8)


def nbits(
    bits: int,
    block: int,
    *,
    rows: int = 96,
    columns: int = 20,
    points: str = "none",
    bias: bool = False,
    groups: NDArray[np.int32] | None = None,
    dtype: Any = np.float32,
    level: int = 0,
) -> tuple[ir.Model, dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """A MatMulNBits with random weights, what it is fed, and its parts."""
    random = np.random.default_rng(bits * 1000 + block)
    blocks = -(-rows // block)
    codes = random.integers(0, 2**bits, (columns, blocks * block)).astype(np.uint8)
    zeros = random.integers(0, 2**bits, (columns, blocks)).astype(np.uint8)
    weights: dict[str, NDArray[Any]] = {
        "b": packed(codes, bits).reshape(columns, blocks, -1),
        "s": (random.random((columns, blocks)) + 0.1).astype(dtype),
    }
    names = ["x", "b", "s", "", "", ""]
    if points != "none":
        names[3] = "z"
        weights["z"] = {
            "packed": packed(zeros, bits),
            "whole": zeros.astype(dtype),
            "real": (zeros + random.random(zeros.shape)).astype(dtype),
        }[points]
    if groups is not None:
        names[4] = "g"
        weights["g"] = groups
    if bias:
        names[5] = "c"
        weights["c"] = random.standard_normal(columns).astype(dtype)
    while not names[-1]:
        names.pop()
    feeds = {"x": random.standard_normal((2, 3, rows)).astype(dtype)}
    attributes = {"K": rows, "N": columns, "bits": bits, "block_size": block, "accuracy_level": level}
    model = one_node("MatMulNBits", names, feeds, weights, **attributes)
    return model, feeds, {"codes": codes, "zeros": zeros, **weights}


CASES = [
    (bits, block, points)
    for bits, block in ((4, 16), (4, 32), (4, 128), (8, 32), (8, 64), (2, 32))
    for points in ("none", "packed", "whole", "real")
    # ONNX Runtime has no kernel for these on the processor.
    if not (bits == 8 and points in ("whole", "real"))
]


@pytest.mark.parametrize(("bits", "block", "points"), CASES)
def test_matmul_nbits(bits: int, block: int, points: str) -> None:
    model, feeds, parts = nbits(bits, block, points=points, bias=points == "packed")
    done = same(model, feeds, tolerance=2e-5)
    (dequantize,) = [node for node in done.graph if node.op_type in ("DequantizeLinear", "Cast")]
    integers = constant_array(dequantize.inputs[0])
    assert integers is not None
    # The same integers, in half a byte each where they have four bits or fewer.
    shift = 2 ** (bits - 1) if points == "none" else 0
    kept = integers.astype(np.int64).T + shift
    assert np.array_equal(kept, parts["codes"][:, : kept.shape[1]])
    assert dequantize.inputs[0].dtype.bitwidth == (8 if bits == 8 else 4)


@pytest.mark.parametrize("points", ["none", "packed", "real"])
def test_rows_that_blocks_do_not_divide(points: str) -> None:
    model, feeds, _ = nbits(4, 32, rows=72, points=points)
    same(model, feeds)


def test_groups_out_of_order_become_an_order_of_the_input() -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 32)).astype(np.int32)
    model, feeds, parts = nbits(4, 32, points="packed", groups=groups)
    codes, zeros = parts["codes"].astype(np.float32), parts["zeros"].astype(np.float32)
    wanted = feeds["x"] @ ((codes - zeros[:, groups]) * parts["s"][:, groups]).T
    from onnx.reference import ReferenceEvaluator

    (got,) = ReferenceEvaluator(ir.to_proto(standard(model))).run(None, feeds)
    assert np.abs(got - wanted).max() < 1e-3
    groups[0] = groups[1]
    model, _, _ = nbits(4, 32, groups=np.zeros(96, np.int32))
    with pytest.raises(UnsupportedModelError, match=r"the_node.*groups"):
        standard(model)


def test_half_precision() -> None:
    model, feeds, _ = nbits(4, 32, dtype=np.float16)
    same(model, feeds, tolerance=5e-3)


@pytest.mark.parametrize(
    ("attributes", "message"), [({"weight_prepacked": 1}, "layout of one device"), ({"bits": 3}, "weights of 3 bits")]
)
def test_matmul_nbits_that_is_refused(attributes: dict[str, int], message: str) -> None:
    model, _, _ = nbits(4, 32)
    for name, value in attributes.items():
        model.graph[0].attributes[name] = ir.AttrInt64(name, value)
    with pytest.raises(UnsupportedModelError, match=rf"MatMulNBits node 'the_node'.*{message}"):
        standard(model)


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("kind", ["uint8 4", "uint8 8", "uint8 2", "int4", "uint4"])
@pytest.mark.parametrize("block", [16, 64])
def test_gather_block_quantized(kind: str, block: int, points: bool) -> None:
    random = np.random.default_rng(5)
    rows, columns = 40, 128
    name, _, number = kind.partition(" ")
    bits = int(number or 4)
    codes = random.integers(0, 2**bits, (rows, columns)).astype(np.uint8)
    zeros = random.integers(0, 2**bits, (rows, columns // block)).astype(np.uint8)
    scales = random.random((rows, columns // block)).astype(np.float32)
    attributes: dict[str, int] = {"block_size": block, "gather_axis": 0, "quantize_axis": 1}
    if name == "uint8":
        attributes["bits"] = bits
        weights = {"d": packed(codes, bits), "s": scales, "z": packed(zeros, bits)}
    else:
        dtype = ir.DataType[name.upper()].numpy()
        shift = 8 if name == "int4" else 0
        weights = {
            key: (array.astype(np.int16) - shift).astype(np.int8 if shift else np.uint8).astype(dtype)
            for key, array in (("d", codes), ("z", zeros))
        } | {"s": scales}
    if not points:
        del weights["z"]
    ids = random.integers(0, rows, (2, 5))
    inputs = ["d", "ids", "s", *(["z"] if points else [])]
    same(one_node("GatherBlockQuantized", inputs, {"ids": ids}, weights, **attributes), {"ids": ids}, tolerance=0)


@pytest.mark.parametrize("axes", [(1, 0), (0, 2), (2, 1)])
def test_gather_on_other_axes(axes: tuple[int, int]) -> None:
    random = np.random.default_rng(6)
    picked, blocked = axes
    shape = [6, 32, 32][: max(axes) + 1] if max(axes) > 1 else [32, 10]
    shape[blocked] = 32
    codes = random.integers(-8, 8, shape).astype(np.int8).astype(ir.DataType.INT4.numpy())
    scales = random.random([2 if axis == blocked else size for axis, size in enumerate(shape)]).astype(np.float32)
    ids = random.integers(0, shape[picked], (3,))
    attributes = {"block_size": 16, "gather_axis": picked, "quantize_axis": blocked}
    model = one_node("GatherBlockQuantized", ["d", "ids", "s"], {"ids": ids}, {"d": codes, "s": scales}, **attributes)
    same(model, {"ids": ids}, tolerance=0)


def test_a_table_shared_with_the_head_stays_one() -> None:
    random = np.random.default_rng(7)
    rows, columns, block = 24, 64, 32
    codes = random.integers(0, 16, (rows, columns)).astype(np.uint8)
    weights = {"b": packed(codes, 4).reshape(rows, 2, 16), "s": random.random((rows, 2)).astype(np.float32)}
    shape = np.array([rows, -1])
    nodes = [
        helper.make_node("Reshape", ["b", "shape"], ["d"]),
        helper.make_node(
            "GatherBlockQuantized", ["d", "ids", "s"], ["x"], domain="com.microsoft", bits=4, block_size=block
        ),
        helper.make_node(
            "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=columns, N=rows, block_size=block
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "tied",
        [helper.make_tensor_value_info("ids", 7, ["B", "S"])],
        [helper.make_tensor_value_info("y", 1, None)],
        [ir.serde.serialize_tensor(ir.Tensor(array, name=name)) for name, array in {**weights, "shape": shape}.items()],
    )
    imports = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))
    done = same(model, {"ids": random.integers(0, rows, (2, 3))}, tolerance=1e-5)
    tables = {node.inputs[0] for node in done.graph if node.op_type == "DequantizeLinear"}
    assert [table.dtype for table in tables] == [ir.DataType.INT4]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_matmul_bnb4(kind: int, dtype: Any) -> None:
    random = np.random.default_rng(8)
    rows, columns, block = 12, 64, 32
    weights = {
        "b": random.integers(0, 256, rows * columns // 2).astype(np.uint8),
        "m": random.random(rows * columns // block).astype(dtype),
    }
    feeds = {"x": random.standard_normal((2, 3, columns)).astype(dtype)}
    attributes = {"K": columns, "N": rows, "block_size": block, "quant_type": kind}
    same(
        one_node("MatMulBnb4", ["x", "b", "m"], feeds, weights, **attributes),
        feeds,
        tolerance=2e-5 if dtype == np.float32 else 5e-3,
    )
