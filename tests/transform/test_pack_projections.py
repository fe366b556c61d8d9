# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""PackProjections: one product for several, the same numbers, no weight kept twice."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai_iface.transform import PackProjections
from tests.models import ModelOptions, build_model
from tests.transform.convert.drive import Drive, count_ops, load, on_reference, same_steps

FAMILIES = {
    "llama": {},
    "rank 3": {"layout": "bsh"},
    "own value size": {"v_head_dim": 16},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "float16": {"dtype": "float16"},
    "concat": {"style": "concat"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_unchanged(family):
    proto = build_model(ModelOptions(**FAMILIES[family]))
    before, signature = load(proto)
    model, _ = load(proto)
    rewrite = PackProjections()
    rewrite(model)
    assert rewrite.note.count == 4, rewrite.note
    assert count_ops(model)["MatMul"] == count_ops(before)["MatMul"] - 6
    batch = 1 if signature.cache.style == "concat" else 3
    drives = [Drive(on_reference(each), signature, batch_size=batch) for each in (before, model)]
    tolerance = 2e-2 if FAMILIES[family].get("dtype") else 1e-5
    assert same_steps(*drives, ragged=batch == 3) < tolerance


def test_the_old_weights_are_gone_and_the_new_ones_take_no_memory_until_they_are_read():
    model, _ = load(build_model(ModelOptions()))
    sizes = _bytes(model)
    PackProjections()(model)
    after = _bytes(model)
    assert not {"0.q.weight", "0.k.weight", "1.up.weight"} & set(after)
    packed = [value for name, value in model.graph.initializers.items() if name.startswith("pack_projections.weight")]
    assert len(packed) == 4
    assert all(isinstance(value.const_value, ir.LazyTensor) for value in packed)
    assert sum(after.values()) == sum(sizes.values())


def _bytes(model):
    initializers = model.graph.initializers.items()
    return {name: value.const_value.nbytes for name, value in initializers if "ints" not in name}


def _layer(*weights, biases=(), shared=False, quantize=()):
    """Products of x (B, S, 32) with some weights, each a graph output after a Neg."""
    nodes, constants, outputs = [], [], []
    for index, weight in enumerate(weights):
        matrix = f"w{index}"
        if quantize:
            integers, scales, zeros, block = quantize[index]
            names = [f"q{index}", f"s{index}"] + ([f"z{index}"] if zeros is not None else [])
            arrays = [integers, scales] + ([zeros] if zeros is not None else [])
            constants += [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]
            nodes.append(helper.make_node("DequantizeLinear", names, [matrix], axis=0, block_size=block))
        else:
            constants.append(numpy_helper.from_array(weight, matrix))
        last = f"m{index}"
        nodes.append(helper.make_node("MatMul", ["x", "w0" if shared else matrix], [last]))
        if biases:
            constants.append(numpy_helper.from_array(biases[index], f"b{index}"))
            pair = [f"b{index}", last] if index % 2 else [last, f"b{index}"]
            nodes.append(helper.make_node("Add", pair, [f"a{index}"]))
            last = f"a{index}"
        nodes.append(helper.make_node("Neg", [last], [f"y{index}"]))
        outputs.append(helper.make_tensor_value_info(f"y{index}", TensorProto.FLOAT, None))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "S", 32])
    graph = helper.make_graph(nodes, "layer", [x], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def _check(proto):
    model = ir.from_proto(proto)
    rewrite = PackProjections()
    rewrite(model)
    x = np.random.default_rng(0).standard_normal((2, 3, 32)).astype(np.float32)
    names = [output.name for output in proto.graph.output]
    wanted = on_reference(ir.from_proto(proto))({"x": x}, names)
    for one, other in zip(on_reference(model)({"x": x}, names), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(other).max())
    return rewrite.note


def _random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_biases_are_packed_too():
    sizes = (8, 4, 4)
    note = _check(_layer(*(_random(32, n) for n in sizes), biases=[_random(n) for n in sizes]))
    assert note.count == 1


def _integers(columns, kind, block, *, zeros=False, seed=0):
    random = np.random.default_rng(seed)
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-127, 127), "uint8": (0, 256)}[kind]
    dtype = getattr(ml_dtypes, kind) if kind.endswith("4") else np.dtype(kind)
    groups = (32 // block, columns)
    zero_points = random.integers(low, high, groups).astype(dtype) if zeros else None
    return random.integers(low, high, (32, columns)).astype(dtype), np.abs(_random(*groups)), zero_points, block


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize("zeros", [True, False])
def test_quantized_weights_are_packed_with_their_scales_and_zero_points(kind, zeros):
    parts = [_integers(columns, kind, 16, zeros=zeros, seed=columns) for columns in (8, 4, 6)]
    assert _check(_layer(None, None, None, quantize=parts)).count == 1


@pytest.mark.parametrize(
    "parts",
    [
        [_integers(8, "int4", 16), _integers(8, "int4", 32)],
        [_integers(8, "int4", 16), _integers(8, "int8", 16)],
        [_integers(8, "uint4", 16, zeros=True), _integers(8, "uint4", 16)],
    ],
    ids=["block sizes", "integer types", "zero points"],
)
def test_weights_that_differ_in_kind_are_not_packed(parts):
    note = _check(_layer(None, None, quantize=parts))
    assert not note.applied
    assert "one kind" in note.reason


def test_a_weight_that_is_read_twice_is_not_packed():
    assert not _check(_layer(_random(32, 8), _random(32, 8), shared=True)).applied


def test_plain_pairs_are_left_alone_if_asked():
    model, _ = load(build_model(ModelOptions()))
    rewrite = PackProjections(smallest_plain=3)
    rewrite(model)
    # Queries, keys and values of two layers; not gate and up.
    assert rewrite.note.count == 2
    assert count_ops(model)["MatMul"] == 11
