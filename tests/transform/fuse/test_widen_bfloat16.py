# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""WidenBfloat16: what ONNX Runtime has no kernel for runs there, and rounds as ml_dtypes does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from genai_iface.transform.fuse._widen_bfloat16 import WidenBfloat16
from tests.transform.convert.written_out import Writer


def _inferred(model):
    proto = model if isinstance(model, onnx.ModelProto) else ir.serde.serialize_model(model)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))


def _session(ort, model):
    return ort.InferenceSession(ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("kind", "compute"), [("Mul", np.multiply), ("Add", np.add)])
def test_products_and_sums_round_as_before(kind, compute):
    ort = pytest.importorskip("onnxruntime")
    w = Writer()
    narrow = [w("Cast", name, to=TensorProto.BFLOAT16) for name in ("a", "b")]
    result = w("Cast", w(kind, *narrow), to=TensorProto.FLOAT)
    inputs = {name: (TensorProto.FLOAT, ["N"]) for name in ("a", "b")}
    graph = _inferred(w.model(inputs, result, TensorProto.FLOAT))
    unsupported = ort.capi.onnxruntime_pybind11_state.NotImplemented
    with pytest.raises(unsupported, match="Could not find an implementation"):
        _session(ort, graph)
    rewrite = WidenBfloat16()
    rewrite(graph)
    assert rewrite.note.count == 1
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal(4096).astype(np.float32) * 100 for _ in "ab")
    expected = compute(a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)).astype(np.float32)
    (got,) = _session(ort, graph).run(None, {"a": a, "b": b})
    np.testing.assert_array_equal(got, expected)
    assert not np.array_equal(got, compute(a, b))


def test_other_types_stay_as_they_are():
    w = Writer()
    model = w.model({"a": (TensorProto.FLOAT, ["N"])}, w("Mul", "a", "a"), TensorProto.FLOAT)
    rewrite = WidenBfloat16()
    rewrite(_inferred(model))
    assert not rewrite.note.applied
