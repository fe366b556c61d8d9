# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The signature follows from the graph's pattern, whatever its inputs are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai_iface import UnsupportedModelError
from genai_iface.graph import GraphSignature, derive_signature
from genai_iface.types import LayerCacheSpec
from tests.models import ModelOptions, build_model

STYLES: dict[str, dict[str, Any]] = {
    "scatter": {},
    "scatter-bsh": {"layout": "bsh"},
    "concat": {"style": "concat"},
    "concat-nodes": {"style": "concat_nodes"},
    "concat-nodes-bsh": {"style": "concat_nodes", "layout": "bsh"},
    "decomposed": {"style": "decomposed"},
    "shared": {"style": "shared"},
    "shared-lengths": {"style": "shared", "attention_mask": False},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "position-ids": {"position_ids": True},
    "sincos": {"position_ids": True, "positions": "sincos"},
    "sincos-computed": {"positions": "sincos"},
    "learned": {"position_ids": True, "positions": "learned"},
    "learned-computed": {"style": "concat", "positions": "learned"},
    "learned-from-mask": {"style": "decomposed", "positions": "learned", "positions_from_mask": True},
    "rotary-from-mask": {"style": "concat_nodes", "attention_mask": True, "positions_from_mask": True},
    "computed-nonpad": {"nonpad": "computed"},
    "mask": {"attention_mask": True, "position_ids": True},
    "concat-mask": {"style": "concat", "attention_mask": True, "position_ids": True},
    "tied": {"tied": True},
    "int8": {"quantize": "int8"},
    "int8-tied": {"quantize": "int8", "tied": True},
    "int4": {"quantize": "int4"},
    "softcap": {"style": "decomposed", "softcap": 5.0},
    "partial": {"rotary_dim": 4},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16", "style": "decomposed"},
}


def derive(**fields: Any) -> GraphSignature:
    return derive_signature(ir.from_proto(build_model(ModelOptions(**fields))))


def expected_roles(options: ModelOptions) -> dict[str, str]:
    roles = {"input_ids": "input_ids"}
    if options.has_mask:
        roles["attention_mask"] = "attention_mask"
    elif options.style == "shared":
        roles |= {"seqlens_k": "seqlens_k", "total_sequence_length": "total_sequence_length"}
    if options.position_ids:
        roles["position_ids"] = "position_ids"
    if options.style == "scatter":
        roles["write_indices"] = "write_indices"
        if options.nonpad == "input":
            roles["nonpad_kv_seqlen"] = "nonpad_kv_seqlen"
    return roles


@pytest.mark.parametrize("fields", [*STYLES.values(), *VARIANTS.values()], ids=[*STYLES, *VARIANTS])
def test_roles_and_cache(fields: dict[str, Any]) -> None:
    options = ModelOptions(**fields)
    signature = derive(**fields)
    assert dict(signature.inputs) == expected_roles(options)
    style = "concat" if options.style in ("concat_nodes", "decomposed") else options.style
    assert (signature.cache.style, signature.cache.layout) == (style, options.layout)
    layer = LayerCacheSpec(num_kv_heads=2, key_head_dim=8, value_head_dim=8, dtype=options.dtype)
    assert signature.cache.layers == (layer, layer)
    names = [(t.layer, t.kind, t.past, t.present) for t in signature.cache_tensors]
    assert names == [
        (n, kind, f"past_key_values.{n}.{kind}", f"present.{n}.{kind}") for n in (0, 1) for kind in ("key", "value")
    ]
    assert (signature.logits, signature.logits_dtype, signature.vocab_size) == ("logits", options.dtype, 264)
    assert signature.max_positions == (None if options.positions == "sincos" else 64)
    assert signature.opset == 24


@pytest.mark.parametrize("fields", [*STYLES.values(), *VARIANTS.values()], ids=[*STYLES, *VARIANTS])
def test_names_play_no_part(fields: dict[str, Any]) -> None:
    plain = build_model(ModelOptions(**fields))
    anonymous = build_model(ModelOptions(**fields, anonymous=True))
    # _rename_edges turns the order of inputs and outputs round.
    pairs = list(zip(plain.graph.input, reversed(anonymous.graph.input), strict=True))
    pairs += zip(plain.graph.output, reversed(anonymous.graph.output), strict=True)
    renamed = {old.name: new.name for old, new in pairs}
    first, second = (derive_signature(ir.from_proto(model)) for model in (plain, anonymous))
    assert {role: renamed[name] for role, name in first.inputs.items()} == dict(second.inputs)
    assert second.logits == renamed[first.logits]
    assert second.cache == first.cache
    assert [(t.layer, t.kind, renamed[t.past], renamed[t.present]) for t in first.cache_tensors] == [
        (t.layer, t.kind, t.past, t.present) for t in second.cache_tensors
    ]
    assert second.max_positions == first.max_positions


def test_layers_may_differ() -> None:
    signature = derive(
        num_kv_heads=(1, 4), head_dim=(16, 8), v_head_dim=(4, 12), mode=("linear", "circular"), capacity=(None, 16)
    )
    assert signature.cache.layers == (
        LayerCacheSpec(1, 16, 4, "float32", "linear", None),
        LayerCacheSpec(4, 8, 12, "float32", "circular", 16),
    )
    assert signature.cache.is_circular
    assert signature.cache.fixed_capacity is None


def test_rank_3_heads_come_from_the_operator() -> None:
    signature = derive(layout="bsh", num_kv_heads=(1, 4), v_head_dim=16, capacity=32)
    assert signature.cache.layers == (
        LayerCacheSpec(1, 8, 16, "float32", "linear", 32),
        LayerCacheSpec(4, 8, 16, "float32", "linear", 32),
    )


def test_layers_follow_the_graph_not_the_names() -> None:
    model = build_model(ModelOptions(layers=12))
    signature = derive_signature(ir.from_proto(model))
    assert [t.past for t in signature.cache_tensors[::2]] == [f"past_key_values.{n}.key" for n in range(12)]


def test_every_subject_has_evidence() -> None:
    signature = derive(position_ids=True)
    subjects = {item.subject for item in signature.evidence}
    caches = {name for tensor in signature.cache_tensors for name in (tensor.past, tensor.present)}
    assert subjects == {*signature.inputs.values(), signature.logits, *caches}
    reasons = {item.role: item.reason for item in signature.evidence}
    assert reasons["write_indices"] == "gives write_indices of the TensorScatter node 'node_present.0.key'"
    assert "Attention node 'node_attention_1' reads it as the values" in reasons["past value of layer 1"]


def test_offset_of_a_learned_table_shrinks_it() -> None:
    """OPT adds 2 to every position before it looks it up."""
    model = build_model(ModelOptions(positions="learned", position_ids=True))
    lookup = next(node for node in model.graph.node if node.op_type == "Gather" and node.input[0] == "positions")
    add = helper.make_node("Add", ["position_ids", "two"], ["shifted"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.int64), "two"))
    lookup.input[1] = "shifted"
    model.graph.node.insert(0, add)
    assert derive_signature(ir.from_proto(model)).max_positions == 62


def test_symbolic_vocabulary_comes_from_the_head() -> None:
    model = build_model(ModelOptions())
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "V"
    assert derive_signature(ir.from_proto(model)).vocab_size == 264


def test_extra_outputs_are_ignored_and_the_name_breaks_ties() -> None:
    model = build_model(ModelOptions())
    hidden = helper.make_tensor_value_info("rmsnormalization_9", TensorProto.FLOAT, ["B", "S", 32])
    norm = [node for node in model.graph.node if node.op_type == "RMSNormalization"][-1]
    hidden.name = norm.output[0]
    model.graph.output.append(hidden)
    assert derive_signature(ir.from_proto(model)).logits == "logits"


def test_tied_names_without_a_tie_breaker_are_refused() -> None:
    model = build_model(ModelOptions(anonymous=True))
    norm = [node for node in model.graph.node if node.op_type == "RMSNormalization"][-1]
    model.graph.output.append(helper.make_tensor_value_info(norm.output[0], TensorProto.FLOAT, ["B", "S", 32]))
    with pytest.raises(UnsupportedModelError, match="2 outputs could be the logits"):
        derive_signature(ir.from_proto(model))


def test_value_shared_by_a_later_layer() -> None:
    """Layers that read another layer's cache (Gemma 3n) own none."""
    model = build_model(ModelOptions(layers=3))
    attention = [node for node in model.graph.node if node.op_type == "Attention"][2]
    attention.input[1], attention.input[2] = "present.1.key", "present.1.value"
    for name in ("present.2.key", "present.2.value"):
        node = next(node for node in model.graph.node if node.output[0] == name)
        model.graph.node.remove(node)
        model.graph.output.remove(next(value for value in model.graph.output if value.name == name))
        model.graph.input.remove(next(value for value in model.graph.input if value.name == node.input[0]))
    assert len(derive_signature(ir.from_proto(model)).cache.layers) == 2


# What is refused. Each change is applied to a model that is understood; the message must name the culprit.


def unused_float_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 8, 8]))


def no_write_indices(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "TensorScatter":
            del node.input[2:]


def constant_write_indices(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "zero"))
    for node in model.graph.node:
        if node.op_type == "TensorScatter":
            node.input[2] = "zero"


def no_lengths(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Attention":
            del node.input[3:]
    model.graph.input.remove(next(value for value in model.graph.input if value.name == "nonpad_kv_seqlen"))


def int32_write_indices(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if value.name == "write_indices":
            value.type.tensor_type.elem_type = TensorProto.INT32


def no_present(model: onnx.ModelProto) -> None:
    model.graph.output.remove(next(value for value in model.graph.output if value.name == "present.1.key"))


def one_cache_for_keys_and_values(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Attention":
            node.input[2] = node.input[1]


def odd_mode(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "mode":
                attribute.s = b"spiral"


def wrong_attribute_type(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "TensorScatter" and attribute.name == "axis":
                attribute.CopyFrom(helper.make_attribute("axis", "two"))


def axis_of_the_heads(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "TensorScatter" and attribute.name == "axis":
                attribute.i = 1


def symbolic_heads(model: onnx.ModelProto) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        if ".key" in value.name:
            value.type.tensor_type.shape.dim[1].dim_param = "H"


def float8_cache(model: onnx.ModelProto) -> None:
    for value in [*model.graph.input, *model.graph.output]:
        if "." in value.name:
            value.type.tensor_type.elem_type = TensorProto.FLOAT8E4M3FN


def cache_without_shape(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if ".key" in value.name:
            value.type.tensor_type.ClearField("shape")


def two_capacities(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if ".key" in value.name:
            value.type.tensor_type.shape.dim[2].dim_value = 16


def rank_1_ids(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[1:]


def embeddings_instead_of_ids(model: onnx.ModelProto) -> None:
    lookup = next(node for node in model.graph.node if node.op_type == "Gather" and node.input[0] == "embedding")
    model.graph.node.remove(lookup)
    model.graph.input.append(helper.make_tensor_value_info(lookup.output[0], TensorProto.FLOAT, ["B", "S", 32]))


def logits_of_rank_2(model: onnx.ModelProto) -> None:
    del model.graph.output[0].type.tensor_type.shape.dim[1:2]


def no_default_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("com.example", 1))


REFUSED = {
    unused_float_input: "'pixel_values'.*no node uses it",
    no_write_indices: "TensorScatter node 'node_present.0.key' has no write_indices",
    constant_write_indices: "'write_indices' acts as position_ids and has rank 1",
    no_lengths: "'node_attention_0' reads a buffer with free positions",
    int32_write_indices: "'write_indices' acts as write_indices and has element type int32",
    no_present: "'node_present.1.key' is not a graph output",
    one_cache_for_keys_and_values: "both keys and values",
    odd_mode: "mode 'spiral'",
    wrong_attribute_type: "'axis' of the TensorScatter node",
    axis_of_the_heads: "rank 4 and the sequence on axis 1",
    symbolic_heads: "number of heads .* of 'past_key_values.0.key'",
    float8_cache: "element type float8e4m3fn",
    cache_without_shape: "'past_key_values.0.key' has no shape",
    two_capacities: "room for 16 keys and None values",
    rank_1_ids: "'input_ids' acts as input_ids and has rank 1",
    embeddings_instead_of_ids: "'input_ids' .* no role that is understood",
    logits_of_rank_2: "0 outputs could be the logits",
    no_default_opset: "no version of the default operator domain",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_refusals_name_the_culprit_and_a_remedy(change: Any) -> None:
    model = build_model(ModelOptions())
    change(model)
    with pytest.raises(UnsupportedModelError, match=REFUSED[change]) as caught:
        derive_signature(ir.from_proto(model))
    assert caught.value.remedy


def test_fixed_past_length_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="fixed length 7, expected one that grows"):
        derive(style="concat", capacity=7)


def test_three_dimensional_positions_are_refused() -> None:
    """Multimodal rotary positions have one row each for time, height and width."""
    model = build_model(ModelOptions(position_ids=True))
    positions = next(value for value in model.graph.input if value.name == "position_ids")
    positions.type.tensor_type.shape.dim.insert(0, onnx.TensorShapeProto.Dimension(dim_value=3))
    with pytest.raises(UnsupportedModelError, match="'position_ids' acts as position_ids and has rank 3"):
        derive_signature(ir.from_proto(model))


def test_past_after_new_is_refused() -> None:
    model = build_model(ModelOptions(style="concat_nodes"))
    for node in model.graph.node:
        if node.op_type == "Concat" and node.output[0].startswith("present"):
            node.input[0], node.input[1] = node.input[1], node.input[0]
    with pytest.raises(UnsupportedModelError, match="exactly the past and then the new tokens"):
        derive_signature(ir.from_proto(model))


def test_token_types_are_not_positions() -> None:
    model = build_model(ModelOptions(positions="learned", position_ids=True))
    table = next(tensor for tensor in model.graph.initializer if tensor.name == "positions")
    table.CopyFrom(numpy_helper.from_array(np.zeros((2, 32), np.float32), "positions"))
    with pytest.raises(UnsupportedModelError, match=r"'position_ids'.*no role that is understood"):
        derive_signature(ir.from_proto(model))


def test_a_model_that_generates_nothing() -> None:
    weight = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["B", 4])],
        [weight],
    )
    with pytest.raises(UnsupportedModelError, match=r"does not keep a cache in a known way.*inputs are 'x'") as caught:
        derive_signature(ir.from_proto(helper.make_model(graph)))
    assert "mobius" in caught.value.remedy
