# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""lower(): every family at every level gives the logits of the graph on disk."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface.transform import LOGITS_POSITIONS
from genai_iface_ort.lowering import lower as lowering
from genai_iface_ort.lowering.lower import lower
from tests.models import ModelOptions, build_model
from tests.transform.convert.drive import Drive, count_ops, load, on_ort, on_reference, same_steps

FAMILIES = {
    "llama": {},
    "rank 3": {"layout": "bsh"},
    "position input": {"position_ids": True},
    "rank 3, position input, fixed capacity": {"layout": "bsh", "position_ids": True, "capacity": 40},
    "computed lengths": {"nonpad": "computed"},
    "multi-query": {"num_kv_heads": 1},
    "multi-head": {"num_kv_heads": 4},
    "learned positions": {"positions": "learned"},
    "rotation by hand": {"positions": "sincos"},
    "softcap": {"softcap": 3.0},
    "partial rotation": {"rotary_dim": 4},
    "small heads": {"head_dim": 8},
    "tied": {"tied": True},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "int8, tied": {"quantize": "int8", "tied": True},
    "int4, tied": {"quantize": "int4", "tied": True},
    "float16": {"dtype": "float16"},
    "own value size": {"v_head_dim": 8},
}


def _drive(lowered, batch_size=3):
    return Drive(
        on_ort(lowered.model),
        lowered.signature,
        batch_size=batch_size,
        capacity=40,
        logits_positions=lowered.logits_positions,
        query_seqlens=lowered.query_seqlens,
    )


def _notes(lowered):
    return {note.rewrite: note for note in lowered.notes}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", ["standard", "runtime"])
def test_logits_are_those_of_the_graph_on_disk(family, level):
    options = {"head_dim": 16, **FAMILIES[family]}
    proto = build_model(ModelOptions(**options))
    before, signature = load(proto)
    lowered = lower(*load(proto), level=level)
    wanted = Drive(on_reference(before), signature, batch_size=3, capacity=40)
    tolerance = 3e-2 if options.get("dtype") == "float16" else 2e-5
    assert same_steps(wanted, _drive(lowered)) < tolerance, lowered.notes


def test_none_changes_nothing():
    model, signature = load(build_model(ModelOptions()))
    before = count_ops(model)
    lowered = lower(model, signature, level="none")
    assert (count_ops(lowered.model), lowered.signature, lowered.notes) == (before, signature, ())
    assert lowered.logits_positions is None


def test_standard_keeps_to_standard_operators_and_the_signature():
    model, signature = load(build_model(ModelOptions(quantize="int4", tied=True)))
    lowered = lower(model, signature, level="standard")
    assert lowered.signature == signature
    assert {node.domain for node in lowered.model.graph} == {""}
    onnx.checker.check_model(ir.to_proto(lowered.model), full_check=True)
    assert lowered.logits_positions == LOGITS_POSITIONS


def test_runtime_leaves_one_attention_kernel_and_few_nodes():
    model, signature = load(build_model(ModelOptions(head_dim=16)))
    nodes = len(model.graph)
    lowered = lower(model, signature, level="runtime")
    kinds = count_ops(lowered.model)
    assert kinds["GroupQueryAttention"] == 2
    # All but the first norm, which has no sum before it.
    assert (kinds["SkipSimplifiedLayerNormalization"], kinds["RMSNormalization"]) == (4, 1)
    assert not {"Attention", "TensorScatter", "RotaryEmbedding", "Transpose", "Reshape"} & set(kinds)
    assert len(lowered.model.graph) < nodes / 2
    assert "2 from packed projections" in _notes(lowered)["group-query-attention"].reason


def test_the_new_signature_says_how_to_drive_it():
    model, signature = load(build_model(ModelOptions(head_dim=16, layout="bsh", position_ids=True, capacity=40)))
    lowered = lower(model, signature, level="runtime")
    assert (lowered.signature.cache.style, lowered.signature.cache.layout) == ("shared", "bnsh")
    assert set(lowered.signature.inputs) == {"input_ids", "seqlens_k", "total_sequence_length"}
    assert lowered.signature.cache.fixed_capacity is None
    named = {value.name for value in lowered.model.graph.inputs}
    extra = {lowered.logits_positions, lowered.query_seqlens}
    assert named == {*lowered.signature.inputs.values(), *extra, *(t.past for t in lowered.signature.cache_tensors)}
    outputs = {value.name for value in lowered.model.graph.outputs}
    assert outputs == {signature.logits, *(tensor.present for tensor in signature.cache_tensors)}
    shapes = {len(value.shape) for value in lowered.model.graph.inputs if "past" in value.name}
    assert shapes == {4}


def test_inputs_that_the_rest_still_reads_stay():
    model, signature = load(build_model(ModelOptions(positions="learned", position_ids=True)))
    lowered = lower(model, signature, level="runtime")
    assert set(lowered.signature.inputs) == {"input_ids", "position_ids", "seqlens_k", "total_sequence_length"}


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_any_number_of_positions(rows):
    lowered = lower(*load(build_model(ModelOptions(quantize="int4", head_dim=16))), level="runtime")
    positions = np.tile(np.arange(rows), (2, 1))
    assert _drive(lowered, 2).step([[1, 2, 3], [4, 5, 6]], positions=positions).shape == (2, rows, 264)


def test_a_tied_table_is_fused_where_it_is_multiplied(tmp_path):
    import onnxruntime

    lowered = lower(*load(build_model(ModelOptions(quantize="int4", tied=True, block_size=16))), level="standard")
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "fused.onnx")
    settings.log_severity_level = 4
    onnxruntime.InferenceSession(ir.to_proto(lowered.model).SerializeToString(), settings)
    fused = onnx.load(tmp_path / "fused.onnx").graph
    kinds = [node.op_type for node in fused.node]
    # Per layer packed QKV, o, packed gate and up, down; and the head.
    assert (kinds.count("MatMulNBits"), kinds.count("MatMul")) == (9, 0)
    # Only gathered rows are dequantized, no table.
    constants = {tensor.name for tensor in fused.initializer}
    assert not [node for node in fused.node if node.op_type == "DequantizeLinear" and node.input[0] in constants]


@pytest.mark.parametrize("window", [1, 3, 100])
def test_a_sliding_window_of_opset_25_moves_into_the_operator(window):
    proto = build_model(ModelOptions(head_dim=16))
    proto.opset_import[0].version = 25
    for node in proto.graph.node:
        if node.op_type == "Attention":
            node.attribute.append(onnx.helper.make_attribute("left_window_size", window - 1))
    before, signature = load(proto)
    lowered = lower(*load(proto), level="runtime")
    assert _notes(lowered)["group-query-attention"].applied
    wanted = Drive(on_reference(before), signature, batch_size=3, capacity=40)
    assert same_steps(wanted, _drive(lowered)) < 2e-5


def test_identities_before_outputs_do_not_hide_the_cache():
    proto = build_model(ModelOptions(head_dim=16))
    for node in list(proto.graph.node):
        if node.op_type == "TensorScatter":
            present = node.output[0]
            node.output[0] = f"{present}.inner"
            proto.graph.node.append(onnx.helper.make_node("Identity", [node.output[0]], [present]))
            for reader in proto.graph.node:
                if reader.op_type == "Attention":
                    reader.input[:] = [node.output[0] if name == present else name for name in reader.input]
    before, signature = load(proto)
    lowered = lower(*load(proto), level="runtime")
    assert _notes(lowered)["group-query-attention"].applied
    assert {value.name for value in lowered.model.graph.outputs} == {value.name for value in before.graph.outputs}
    wanted = Drive(on_reference(before), signature, batch_size=3, capacity=40)
    assert same_steps(wanted, _drive(lowered)) < 2e-5


def test_heads_that_no_shape_states_follow_from_the_width():
    """Exporters compute the target of a Reshape, with -1 for the heads."""
    proto = build_model(ModelOptions(head_dim=16))
    graph = proto.graph
    for name, value in {"any": [-1], "size": [16]}.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    graph.node.insert(0, onnx.helper.make_node("Shape", ["input_ids"], ["rows"]))
    graph.node.insert(1, onnx.helper.make_node("Concat", ["rows", "any", "size"], ["target"], axis=0))
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1] in ("ints_0_0_4_16", "ints_0_0_2_16"):
            node.input[1] = "target"
    before, signature = load(proto)
    lowered = lower(*load(proto), level="runtime")
    wanted = "2 layers, 2 with the rotation inside, 2 from packed projections"
    assert _notes(lowered)["group-query-attention"].reason == wanted
    assert not {"Reshape", "Transpose"} & set(count_ops(lowered.model))
    assert same_steps(Drive(on_reference(before), signature, batch_size=3, capacity=40), _drive(lowered)) < 2e-5


# Falling back.


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"v_head_dim": 8}, "keys of size 16, values of 8"),
        ({"head_dim": 4}, "not a multiple of 8"),
        ({"mode": ["linear", "circular"], "capacity": [None, 8]}, "circular"),
        ({"attention_mask": True}, "mask"),
        ({"style": "concat"}, "style concat"),
    ],
)
def test_attention_stays_standard_where_the_operator_would_differ(options, reason):
    model, signature = load(build_model(ModelOptions(**{"head_dim": 16, **options})))
    lowered = lower(model, signature, level="runtime")
    note = _notes(lowered)["group-query-attention"]
    assert not note.applied
    assert reason in note.reason
    assert lowered.signature == signature
    assert lowered.query_seqlens is None
    assert count_ops(lowered.model)["Attention"] == 2


def _edited(edit):
    proto = build_model(ModelOptions(head_dim=16))
    edit(next(node for node in proto.graph.node if node.op_type == "Attention"), proto.graph)
    return proto


def _not_causal(attention, _graph):
    next(each for each in attention.attribute if each.name == "is_causal").i = 0


def _other_lengths(attention, graph):
    """Valid lengths that are one short."""
    graph.node.insert(0, onnx.helper.make_node("Sub", ["nonpad_kv_seqlen", "one"], ["shorter"]))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "one"))
    attention.input[6] = "shorter"


def _scores_too(attention, graph):
    attention.output.extend(["", "", "scores"])
    graph.node.append(onnx.helper.make_node("ReduceMax", ["scores"], ["highest"], keepdims=0))
    graph.node.append(onnx.helper.make_node("Add", ["logits_before", "highest"], ["logits"]))
    next(node for node in graph.node if node.output[0] == "logits").output[0] = "logits_before"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_not_causal, "not causal"),
        (_other_lengths, "write_indices + S"),
        (_scores_too, "gives scores that are not those of its softmax"),
    ],
)
def test_one_odd_layer_keeps_all_layers_standard(edit, reason):
    lowered = lower(*load(_edited(edit)), level="runtime")
    note = _notes(lowered)["group-query-attention"]
    assert (note.applied, reason in note.reason) == (False, True), note
    assert count_ops(lowered.model)["Attention"] == 2


def test_positions_that_are_not_the_steps_own_are_rotated_outside():
    proto = build_model(ModelOptions(head_dim=16, position_ids=True))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2], np.int64), "two"))
    proto.graph.node.insert(0, onnx.helper.make_node("Add", ["position_ids", "two"], ["later"]))
    for node in proto.graph.node:
        if node.op_type == "RotaryEmbedding":
            node.input[3] = "later"
    before, signature = load(proto)
    lowered = lower(*load(proto), level="runtime")
    assert "0 with the rotation inside" in _notes(lowered)["group-query-attention"].reason
    wanted = Drive(on_ort(before), signature, batch_size=3, capacity=40)
    assert same_steps(wanted, _drive(lowered)) < 2e-5


def test_cuda_takes_the_operator_in_half_precision_only():
    for dtype, applied in (("float32", False), ("float16", True), ("bfloat16", True)):
        lowered = lower(*load(build_model(ModelOptions(head_dim=16, dtype=dtype))), level="runtime", device_kind="cuda")
        assert _notes(lowered)["group-query-attention"].applied is applied, dtype


# Without query_seqlens, as older runtimes have it.


@pytest.fixture
def old_runtime(monkeypatch):
    monkeypatch.setattr(lowering, "has_query_seqlens", lambda: False)


@pytest.mark.usefixtures("old_runtime")
def test_an_older_operator_is_restricted_and_says_so():
    proto = build_model(ModelOptions(head_dim=16))
    before, signature = load(proto)
    lowered = lower(*load(proto), level="runtime")
    assert (lowered.query_seqlens, lowered.ragged_multi_token) == (None, False)
    # One row in chunks; many rows in a first prompt and token by token.
    wanted, got = (Drive(on_reference(before), signature, capacity=40), _drive(lowered, 1))
    assert same_steps(wanted, got) < 2e-5
    wanted, got = (Drive(on_reference(before), signature, batch_size=3, capacity=40), _drive(lowered, 3))
    ids = np.arange(18).reshape(3, 6)
    for width, counts in ((6, [6, 3, 1]), (1, [1, 1, 1]), (1, [1, 0, 1])):
        one, other = (drive.step(ids[:, :width], counts, [[max(c - 1, 0)] for c in counts]) for drive in (wanted, got))
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_installed_runtime_is_asked():
    lowered = lower(*load(build_model(ModelOptions(head_dim=16))), level="runtime")
    assert lowered.ragged_multi_token is (lowered.query_seqlens is not None)
    assert (lowered.query_seqlens is not None) is lowering.has_query_seqlens()


def test_lowered_is_frozen():
    lowered = lower(*load(build_model(ModelOptions())), level="none")
    with pytest.raises(dataclasses.FrozenInstanceError):
        lowered.notes = ()
