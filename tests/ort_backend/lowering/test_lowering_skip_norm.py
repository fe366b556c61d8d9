# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""SkipNorm: a sum and the norm after it in one kernel, where their shapes are known to be equal."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai_iface.graph._inference import infer_shapes
from genai_iface_ort.lowering.skip_norm import SkipNorm
from tests.models import NUMPY_DTYPES, ModelOptions, build_model
from tests.transform.convert.drive import Drive, count_ops, load, on_ort, same_steps

FAMILIES = {
    "llama": {},
    "rank 3": {"layout": "bsh"},
    "float16": {"dtype": "float16"},
    "int8": {"quantize": "int8"},
    "concat": {"style": "concat"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_unchanged(family):
    proto = build_model(ModelOptions(**FAMILIES[family]))
    before, signature = load(proto)
    model, _ = load(proto)
    infer_shapes(model)
    rewrite = SkipNorm()
    rewrite(model)
    assert rewrite.note.count == 4, rewrite.note
    assert count_ops(model)["Add"] == count_ops(before)["Add"] - 4
    batch = 1 if signature.cache.style == "concat" else 3
    drives = [Drive(on_ort(each), signature, batch_size=batch) for each in (before, model)]
    assert same_steps(*drives, ragged=batch == 3) < (3e-2 if "dtype" in FAMILIES[family] else 1e-5)


def _block(*, other=("B", "S", 32), kept=True, dtype="float32", axis=-1, stash=1, scale=(32,), computed_scale=False):
    """y = norm(a + b) * 2, and z = a + b if kept."""
    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}[dtype]
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("RMSNormalization", ["sum", "scale"], ["n"], axis=axis, stash_type=stash, epsilon=1e-3),
        helper.make_node("Add", ["n", "n"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", kind, ["B", "S", 32])]
    if kept:
        nodes.append(helper.make_node("Neg", ["sum"], ["z"]))
        outputs.append(helper.make_tensor_value_info("z", kind, ["B", "S", 32]))
    weight = np.linspace(0.5, 1.5, int(np.prod(scale))).reshape(scale).astype(NUMPY_DTYPES[dtype])
    name = "scale"
    if computed_scale:
        nodes.insert(0, helper.make_node("Abs", ["weight"], ["scale"]))
        name = "weight"
    inputs = [
        helper.make_tensor_value_info("a", kind, ["B", "S", 32]),
        helper.make_tensor_value_info("b", kind, list(other)),
    ]
    graph = helper.make_graph(nodes, "block", inputs, outputs, [numpy_helper.from_array(weight, name)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def _fused(proto, device_kind="cpu"):
    model = ir.from_proto(proto)
    infer_shapes(model)
    rewrite = SkipNorm(device_kind)
    rewrite(model)
    return model, rewrite.note


@pytest.mark.parametrize("kept", [True, False])
def test_the_sum_is_given_where_it_is_read_again(kept):
    proto = _block(kept=kept)
    model, note = _fused(proto)
    assert note.applied
    (node,) = [node for node in model.graph if node.op_type == "SkipSimplifiedLayerNormalization"]
    assert [bool(output.name) for output in node.outputs][1:3] in ([False, False], [])
    random = np.random.default_rng(0)
    feeds = {name: random.standard_normal((2, 3, 32)).astype(np.float32) for name in "ab"}
    names = [output.name for output in proto.graph.output]
    wanted, got = (on_ort(each)(feeds, names) for each in (ir.from_proto(proto), model))
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"other": (1, 1, 32)}, "equal shapes"),
        ({"other": ("B", "T", 32)}, "equal shapes"),
        ({"other": (32,)}, "equal shapes"),
        ({"axis": 1, "scale": (1, 32)}, "last axis"),
        ({"stash": 10, "dtype": "float16"}, "float32"),
        ({"dtype": "bfloat16"}, "BFLOAT16"),
        ({"computed_scale": True}, "last axis"),
    ],
)
def test_it_falls_back(options, reason):
    model, note = _fused(_block(**options))
    assert not note.applied
    assert reason in note.reason
    assert count_ops(model)["RMSNormalization"] == 1


def test_cuda_takes_bfloat16():
    assert _fused(_block(dtype="bfloat16"), "cuda")[1].applied


def test_a_sum_that_is_a_graph_output_stays():
    proto = _block(kept=False)
    proto.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["B", "S", 32]))
    assert "graph output" in _fused(proto)[1].reason
