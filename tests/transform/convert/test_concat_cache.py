# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""TensorScatter graphs for runtimes that lack it: past/present tensors, ScatterND, older operators, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface.errors import UnsupportedModelError
from genai_iface.transform.convert._primitive_operators import PrimitiveOperators
from genai_iface.transform.convert.concat_cache import to_concat
from genai_iface.transform.convert.scatter_cache import to_scatter
from genai_iface.transform.convert.scatter_nd import to_scatter_nd
from tests.models import ModelOptions, build_model
from tests.transform.convert.concat_graphs import masked_model
from tests.transform.convert.drive import Drive, count_ops, load, on_ort, on_reference, same_steps

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "position input": {"position_ids": True},
    "sines": {"positions": "sincos"},
    "learned positions": {"positions": "learned"},
    "computed lengths": {"nonpad": "computed"},
    "soft cap": {"softcap": 5.0},
    "partial rotary": {"rotary_dim": 4},
    "unequal layers": {"num_kv_heads": [4, 1]},
    "anonymous": {"anonymous": True},
    "rank 3": {"layout": "bsh"},
    "fixed capacity": {"capacity": 40},
    "int8, tied": {"quantize": "int8", "tied": True},
}


def scatter_model(**fields: Any) -> onnx.ModelProto:
    return build_model(ModelOptions(style="scatter", **fields))


@pytest.mark.parametrize("variant", VARIANTS)
def test_past_and_present_and_back(variant: str) -> None:
    proto = scatter_model(**VARIANTS[variant])
    source, signature = load(proto)
    there = to_concat(ir.from_proto(proto))
    onnx.checker.check_model(ir.to_proto(there.model))
    names = [value.name for value in there.model.graph.inputs]
    assert names[:4] == ["input_ids", "attention_mask", "position_ids", "past_key_values.0.key"]
    assert [value.name for value in there.model.graph.outputs][:2] == ["logits", "present.0.key"]
    assert not {"TensorScatter", "nonpad_kv_seqlen"} & {*count_ops(there.model), *names}
    run = on_reference(source)
    grown = Drive(on_reference(there.model), there.signature)
    assert same_steps(Drive(run, signature), grown, ragged=False) < 1e-5
    back = to_scatter(ir.from_proto(ir.to_proto(there.model)))
    again = Drive(on_reference(back.model), back.signature, batch_size=3, capacity=40)
    assert same_steps(Drive(run, signature, batch_size=3, capacity=40), again) < 1e-6


def test_a_window_survives_both_ways() -> None:
    proto = masked_model(kinds=("window", "causal"), size=4)
    source, signature = load(proto)
    there = to_scatter(ir.from_proto(proto))
    back = to_concat(ir.from_proto(ir.to_proto(there.model)))
    assert [note.mask for note in back.layers] == ["window 4", "causal"]
    one, other = Drive(on_reference(source), signature), Drive(on_reference(back.model), back.signature)
    assert same_steps(one, other, ragged=False) < 1e-5


def test_heads_that_a_shape_leaves_open_are_counted() -> None:
    """What torch's exporter writes: heads are taken apart by a -1 behind sizes of the input."""
    proto = scatter_model()
    source, signature = load(proto)
    sizes = [onnx.numpy_helper.to_array(each) for each in proto.graph.initializer if len(each.dims) == 1]
    targets = {each.name for each in proto.graph.initializer if list(each.dims) == [4]}
    assert any(list(each[:2]) == [0, 0] for each in sizes if each.size == 4)
    shape = onnx.helper.make_node("Shape", ["input_ids"], ["open.batch_and_tokens"], start=0, end=2)
    target = onnx.helper.make_node("Concat", ["open.batch_and_tokens", "open.heads"], ["open.target"], axis=0)
    for node in proto.graph.node:
        if node.op_type == "Reshape" and node.input[1] in targets:
            node.input[1] = "open.target"
    nodes = [shape, target, *proto.graph.node]
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 8]), "open.heads"))
    there = to_concat(ir.from_proto(proto))
    PrimitiveOperators()(there.model)
    assert not {"Attention", "RotaryEmbedding", "RMSNormalization"} & {*count_ops(there.model)}
    grown = Drive(on_reference(there.model), there.signature)
    assert same_steps(Drive(on_reference(source), signature), grown, ragged=False) < 1e-5


def test_padding_on_the_left_changes_nothing() -> None:
    """How published models are fed with unequal prompts: attention_mask 0 on the left, positions from it."""
    there = to_concat(ir.from_proto(scatter_model()))
    run = on_reference(there.model)
    caches = [value for value in there.model.graph.inputs if value.name.startswith("past")]
    empty = {value.name: np.zeros((1, 2, 0, 8), np.float32) for value in caches}
    ids = np.array([[7, 8, 9]])
    plain = {"input_ids": ids, "attention_mask": np.ones((1, 3), np.int64), "position_ids": np.array([[0, 1, 2]])}
    padded = {
        "input_ids": np.array([[0, 0, 7, 8, 9]]),
        "attention_mask": np.array([[0, 0, 1, 1, 1]]),
        "position_ids": np.array([[0, 0, 0, 1, 2]]),
    }
    (wanted,), (got,) = (run(feeds | empty, ["logits"]) for feeds in (plain, padded))
    assert np.isfinite(got).all()
    assert np.abs(got[:, 2:] - wanted).max() < 1e-5


@pytest.mark.parametrize("variant", ["plain", "unequal layers", "anonymous", "rank 3", "circular"])
def test_scatter_nd_is_driven_like_its_source(variant: str) -> None:
    fields = VARIANTS.get(variant, {"mode": ["circular", "linear"], "capacity": [40, 40]})
    proto = scatter_model(**fields)
    source, signature = load(proto)
    done = to_scatter_nd(ir.from_proto(proto))
    onnx.checker.check_model(ir.to_proto(done.model))
    ops = count_ops(done.model)
    assert ops["ScatterND"] == 4
    assert "TensorScatter" not in ops
    drives = (Drive(on_reference(model), signature, batch_size=3, capacity=40) for model in (source, done.model))
    assert same_steps(*drives) == 0.0


def test_a_ring_wraps_around() -> None:
    proto = scatter_model(mode="circular", capacity=8, attention_mask=False)
    source, signature = load(proto)
    done = to_scatter_nd(ir.from_proto(proto))
    drives = [Drive(on_reference(model), signature) for model in (source, done.model)]
    for token in range(12):
        one, other = (drive.step([[token]]) for drive in drives)
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("target", "variant"),
    [(to_scatter_nd, name) for name in VARIANTS if name not in ("anonymous", "position input", "computed lengths")]
    + [(to_concat, name) for name in ("plain", "rank 3", "int8, tied")],
)
def test_older_operators(target: Any, variant: str) -> None:
    proto = scatter_model(**VARIANTS[variant])
    source, signature = load(proto)
    done = target(ir.from_proto(proto))
    rewrite = PrimitiveOperators()
    rewrite(done.model)
    onnx.checker.check_model(ir.to_proto(done.model))
    assert not {"Attention", "RotaryEmbedding", "RMSNormalization"} & count_ops(done.model).keys()
    assert done.model.opset_imports[""] == (21 if "quantize" in VARIANTS[variant] else 18), rewrite.note
    batch = 1 if target is to_concat else 3
    runner = on_ort if variant == "plain" else on_reference
    one = Drive(on_reference(source), signature, batch_size=batch, capacity=40)
    other = Drive(runner(done.model), done.signature, batch_size=batch, capacity=40)
    assert same_steps(one, other, ragged=batch > 1) < 1e-5


def calls(*nodes: onnx.NodeProto) -> ir.Model:
    info, number = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs = [info("x", number, ["B", "S", 16]), info("any", number, None), info("scale", number, [16])]
    inputs += [info(name, number, [9, 2]) for name in ("cos", "sin")]
    inputs += [info("positions", onnx.TensorProto.INT64, ["B", "S"])]
    graph = onnx.helper.make_graph(nodes, "calls", inputs, [info("y", number, None)])
    imports = [onnx.helper.make_opsetid("", 24), onnx.helper.make_opsetid("own", 1)]
    return ir.from_proto(onnx.helper.make_model(graph, opset_imports=imports, ir_version=11))


def test_a_norm_behind_an_operator_of_another_domain() -> None:
    """ONNX infers no type there."""
    other = onnx.helper.make_node("Foreign", ["x"], ["z"], domain="own")
    model = calls(other, onnx.helper.make_node("RMSNormalization", ["z", "scale"], ["y"]))
    PrimitiveOperators()(model)
    operators = count_ops(model)
    assert operators["Sqrt"] == 1
    assert "RMSNormalization" not in operators


@pytest.mark.parametrize("x", ["x", "any"])
def test_a_rotation_without_heads_or_rank_is_refused(x: str) -> None:
    model = calls(onnx.helper.make_node("RotaryEmbedding", [x, "cos", "sin", "positions"], ["y"]))
    with pytest.raises(UnsupportedModelError, match=r"rank (3|None), or its heads are not known"):
        PrimitiveOperators()(model)


def test_older_operators_interleaved_and_in_half_precision() -> None:
    proto = scatter_model(dtype="float16")
    for node in proto.graph.node:
        if node.op_type == "RotaryEmbedding":
            node.attribute.append(onnx.helper.make_attribute("interleaved", 1))
    source, signature = load(proto)
    done = to_scatter_nd(ir.from_proto(proto))
    PrimitiveOperators()(done.model)
    drives = (Drive(on_reference(model), signature, batch_size=3) for model in (source, done.model))
    assert same_steps(*drives) < 2e-2


@pytest.mark.parametrize(
    ("target", "fields", "message"),
    [
        (to_concat, {"style": "scatter", "mode": "circular", "capacity": 8}, "cache is circular"),
        (to_concat, {"style": "concat"}, "cache is concat"),
        (to_scatter_nd, {"style": "concat"}, "of style concat, expected TensorScatter"),
    ],
)
def test_other_caches_are_refused(target: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        target(ir.from_proto(build_model(ModelOptions(**fields))))
