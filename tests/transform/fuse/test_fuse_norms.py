# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""FuseRmsNorm and MatchNormTypes: RMSNormalization that runtimes take, and the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from genai_iface.transform.fuse import FuseRmsNorm, MatchNormTypes
from tests.transform.convert.written_out import RUNTIMES, Writer, operators

SIZE = 16
WEIGHT = np.linspace(0.5, 1.5, SIZE, dtype=np.float32)


def _norm(w, x, *, root="pow", square="pow", epsilon=1e-6, weight=WEIGHT, axis=-1):
    squares = w("Pow", x, np.float32(2)) if square == "pow" else w("Mul", x, x)
    mean = w("ReduceMean", squares, [axis], keepdims=1)
    if epsilon is not None:
        mean = w("Add", mean, np.float32(epsilon))
    if root == "pow":
        y = w("Mul", x, w("Pow", mean, np.float32(-0.5)))
    elif root == "reciprocal":
        y = w("Mul", w("Reciprocal", w("Sqrt", mean)), x)
    elif root == "one over":
        y = w("Mul", x, w("Div", np.float32(1), w("Sqrt", mean)))
    else:
        y = w("Div", x, w("Sqrt", mean))
    return y if weight is None else w("Mul", weight, y)


def _expected(x, epsilon=1e-6, weight=WEIGHT):
    wide = x.astype(np.float64)
    y = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + epsilon)
    return y if weight is None else y * weight


def _arrays(dtype):
    x = np.random.default_rng(0).standard_normal((2, 5, SIZE)).astype(dtype)
    x[0, 0] = 0  # only epsilon keeps this row finite
    return {"x": x}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("weight", [WEIGHT, None], ids=["weight", "no weight"])
@pytest.mark.parametrize("root", ["pow", "reciprocal", "one over", "divided"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_written_out_norm_becomes_one_node_with_the_same_numbers(dtype, root, weight, runtime):
    w = Writer()
    x = "x" if dtype == "float32" else w("Cast", "x", to=TensorProto.FLOAT)
    y = _norm(w, x, root=root, square="product" if root == "divided" else "pow", weight=weight)
    if dtype == "float16":
        y = w("Cast", y, to=TensorProto.FLOAT16)
    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
    model = w.model({"x": (kind, ["B", "S", SIZE])}, y, kind)
    rewrite = FuseRmsNorm()
    rewrite(model)
    assert rewrite.note.count == operators(model)["RMSNormalization"] == 1, rewrite.note
    assert not operators(model)["ReduceMean"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    arrays = _arrays(dtype)
    got = RUNTIMES[runtime](model, arrays)
    assert got.dtype == dtype
    tolerance = 2e-6 if dtype == "float32" else 4e-3
    assert np.abs(got - _expected(arrays["x"], weight=weight)).max() < tolerance


@pytest.mark.parametrize(
    "changed",
    [{"epsilon": None}, {"epsilon": 0.0}, {"axis": 1}],
    ids=["no epsilon", "epsilon 0", "another axis"],
)
def test_other_norms_are_refused(changed):
    w = Writer()
    model = w.model({"x": (TensorProto.FLOAT, ["B", "S", SIZE])}, _norm(w, "x", **changed), TensorProto.FLOAT)
    rewrite = FuseRmsNorm()
    rewrite(model)
    assert not rewrite.note.applied


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_float16_input_is_cast_to_the_float32_of_its_weight(runtime):
    w = Writer()
    y = w("Cast", w("RMSNormalization", "x", WEIGHT, axis=-1, epsilon=1e-6), to=TensorProto.FLOAT16)
    model = w.model({"x": (TensorProto.FLOAT16, ["B", "S", SIZE])}, y, TensorProto.FLOAT16)
    rewrite = MatchNormTypes()
    rewrite(model)
    assert rewrite.note.count == 1, rewrite.note
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    arrays = _arrays("float16")
    assert np.abs(RUNTIMES[runtime](model, arrays) - _expected(arrays["x"])).max() < 4e-3


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_norms_of_one_type_are_left_alone(dtype):
    w = Writer()
    kind = TensorProto.FLOAT if dtype == np.float32 else TensorProto.FLOAT16
    y = w("RMSNormalization", "x", WEIGHT.astype(dtype), axis=-1)
    rewrite = MatchNormTypes()
    rewrite(w.model({"x": (kind, ["B", "S", SIZE])}, y, kind))
    assert not rewrite.note.applied


def test_an_opset_without_the_operator_is_left_alone():
    w = Writer()
    model = w.model({"x": (TensorProto.FLOAT, ["B", "S", SIZE])}, _norm(w, "x"), TensorProto.FLOAT, opset=22)
    rewrite = FuseRmsNorm()
    rewrite(model)
    assert not rewrite.note.applied
    assert "opset 22" in rewrite.note.reason
