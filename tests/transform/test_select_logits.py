# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""SelectLogits: logits of the asked positions only, and the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai_iface.graph._inference import infer_shapes
from genai_iface.transform import LOGITS_POSITIONS, SelectLogits
from tests.models import ModelOptions, build_model
from tests.transform.convert.drive import Drive, load, on_reference, same_steps

FAMILIES = {
    "llama": {},
    "rank 3": {"layout": "bsh"},
    "learned positions": {"positions": "learned"},
    "rotation by hand": {"positions": "sincos"},
    "softcap": {"softcap": 3.0},
    "tied": {"tied": True},
    "int8": {"quantize": "int8"},
    "int4, tied": {"quantize": "int4", "tied": True},
    "concat": {"style": "concat"},
    "decomposed": {"style": "decomposed"},
}


def _select(proto, *, shapes=True):
    model, signature = load(proto)
    if shapes:
        infer_shapes(model)
    select = SelectLogits(signature)
    select(model)
    return model, signature, select.note


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shapes", [True, False])
def test_logits_of_the_asked_positions_are_unchanged(family, shapes):
    proto = build_model(ModelOptions(**FAMILIES[family]))
    before, signature = load(proto)
    model, _, note = _select(proto, shapes=shapes)
    assert note.applied, note
    batch = 1 if signature.cache.style == "concat" else 3
    wanted = Drive(on_reference(before), signature, batch_size=batch)
    got = Drive(on_reference(model), signature, batch_size=batch, logits_positions=LOGITS_POSITIONS)
    assert same_steps(wanted, got, ragged=signature.cache.style != "concat") < 1e-5


def test_several_positions_of_a_row_in_any_order():
    proto = build_model(ModelOptions())
    before, signature = load(proto)
    model, _, _ = _select(proto)
    ids, positions = np.arange(10).reshape(2, 5), np.array([[4, 0, 0], [1, 2, 3]])
    wanted = Drive(on_reference(before), signature, batch_size=2).step(ids, positions=positions)
    selected = Drive(on_reference(model), signature, batch_size=2, logits_positions=LOGITS_POSITIONS)
    got = selected.step(ids, positions=positions)
    assert got.shape == (2, 3, signature.vocab_size)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_with_shapes_the_last_layers_mlp_runs_on_the_asked_rows_only():
    model, _, note = _select(build_model(ModelOptions()))
    gathered = [node for node in model.graph if node.op_type == "GatherND"]
    assert len(gathered) == 2
    products = [node for node in model.graph if node.op_type == "MatMul"]
    rows = [node for node in products if "logits_rows" in str(node.outputs[0].shape)]
    # o, gate, up and down of the last layer, and the LM head.
    assert len(rows) == 5
    assert note.count >= len(rows)


def test_without_shapes_the_gather_comes_right_before_the_last_norm():
    model, _, _ = _select(build_model(ModelOptions()), shapes=False)
    (gather,) = [node for node in model.graph if node.op_type == "GatherND"]
    assert [node.op_type for node, _ in gather.outputs[0].uses()] == ["RMSNormalization"]


def test_a_model_checked_by_onnx_stays_legal():
    model, _, _ = _select(build_model(ModelOptions(tied=True, quantize="int8")))
    onnx.checker.check_model(ir.to_proto(model))


def test_the_input_has_the_documented_name_and_type():
    model, _, _ = _select(build_model(ModelOptions()))
    added = model.graph.inputs[-1]
    assert (added.name, added.dtype, len(added.shape)) == (LOGITS_POSITIONS, ir.DataType.INT64, 2)


def _with_tail(*nodes, weights=()):
    """The tiny model with something between the LM head and the logits."""
    proto = build_model(ModelOptions())
    for node in proto.graph.node:
        for index, name in enumerate(node.output):
            if name == "logits":
                node.output[index] = "head"
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(weights)
    return proto


def _constant(name, *values, dtype=np.float32):
    return numpy_helper.from_array(np.array(values[0] if len(values) == 1 else values, dtype), name)


def test_a_bias_and_a_softcap_after_the_head_do_not_stop_it():
    vocab = ModelOptions().vocab_size
    proto = _with_tail(
        helper.make_node("Add", ["head", "bias"], ["biased"]),
        helper.make_node("Div", ["biased", "cap"], ["small"]),
        helper.make_node("Tanh", ["small"], ["capped"]),
        helper.make_node("Mul", ["capped", "cap"], ["large"]),
        helper.make_node("Cast", ["large"], ["logits"], to=TensorProto.FLOAT),
        weights=[_constant("cap", 2.0), _constant("bias", np.linspace(-1, 1, vocab))],
    )
    before, signature = load(proto)
    model, _, note = _select(proto)
    assert note.applied
    wanted = Drive(on_reference(before), signature, batch_size=3)
    got = Drive(on_reference(model), signature, batch_size=3, logits_positions=LOGITS_POSITIONS)
    assert same_steps(wanted, got) < 1e-5


def test_it_stays_away_from_what_mixes_positions():
    proto = _with_tail(
        helper.make_node("CumSum", ["head", "axis"], ["logits"]), weights=[_constant("axis", 1, dtype=np.int64)]
    )
    model, _, note = _select(proto)
    assert not note.applied
    assert "CumSum" in note.reason
    assert all(value.name != LOGITS_POSITIONS for value in model.graph.inputs)


def test_it_stays_away_from_a_bias_that_differs_by_position():
    proto = _with_tail(
        helper.make_node("Add", ["head", "table"], ["logits"]),
        weights=[_constant("table", np.zeros((1, 5, ModelOptions().vocab_size)))],
    )
    assert not _select(proto)[2].applied


def test_it_stays_away_from_a_graph_that_selects_rows_itself():
    proto = _with_tail(
        helper.make_node("Slice", ["head", "begin", "end", "axis"], ["logits"]),
        weights=[_constant(name, [value], dtype=np.int64) for name, value in (("begin", -1), ("end", 99), ("axis", 1))],
    )
    note = _select(proto)[2]
    assert not note.applied
    assert "by itself" in note.reason
