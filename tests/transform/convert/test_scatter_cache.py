# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Past/present graphs become TensorScatter graphs that compute the same, or are refused with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from genai_iface.conformance._golden import open_golden
from genai_iface.errors import UnsupportedModelError
from genai_iface.transform.convert.scatter_cache import to_scatter
from tests.models import ModelOptions, build_model
from tests.transform.convert.concat_graphs import masked_model
from tests.transform.convert.drive import Drive, RunGraph, count_ops, load, on_ort, on_reference, same_steps

pytestmark = pytest.mark.filterwarnings("ignore:.*in-place optimization.*")

FORMS = {
    "past inputs": {"style": "concat"},
    "concat nodes": {"style": "concat_nodes"},
    "concat nodes, rank 3": {"style": "concat_nodes", "layout": "bsh"},
    "decomposed": {"style": "decomposed"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "position input": {"position_ids": True},
    "learned positions": {"positions": "learned"},
    "mask input": {"attention_mask": True},
    "no mask input": {"attention_mask": False},
    "positions from the mask": {"attention_mask": True, "positions_from_mask": True},
    "soft cap": {"softcap": 5.0},
    "unequal layers": {"num_kv_heads": [4, 1]},
    "own value size": {"v_head_dim": 16},
    "partial rotary": {"rotary_dim": 4},
    "anonymous": {"anonymous": True},
    "int4, tied": {"quantize": "int4", "tied": True},
}
STEPS = ((6, [6, 3, 1]), (1, [1, 1, 1]), (4, [2, 4, 0]), (1, [1, 0, 1]), (5, [5, 5, 5]))


def convert(proto: onnx.ModelProto, **options: Any) -> Any:
    done = to_scatter(ir.from_proto(proto), **options)
    onnx.checker.check_model(ir.to_proto(done.model))
    return done


def assert_same(
    proto: onnx.ModelProto, done: Any, *, runner: Any = on_reference, tolerance: float = 1e-5, highest_id: int = 255
) -> None:
    """A ragged batch of the converted graph gives what the rows give one by one in the source graph."""
    source, signature = load(proto)
    run: RunGraph = on_reference(source)
    rows = [Drive(run, signature) for _ in range(3)]
    after = Drive(runner(done.model), done.signature, batch_size=3)
    random = np.random.default_rng(0)
    for width, counts in STEPS:
        ids = random.integers(0, highest_id, (3, width))
        got = after.step(ids, counts)
        for row, count in enumerate(counts):
            if count:
                wanted = rows[row].step(ids[row : row + 1, :count])
                assert np.abs(got[row, :count] - wanted[0]).max() < tolerance


@pytest.mark.parametrize(
    ("form", "variant"),
    [(form, variant) for form in FORMS for variant in VARIANTS if variant == "plain" or not form.startswith("concat")],
)
def test_rows_of_a_ragged_batch_equal_the_source(form: str, variant: str) -> None:
    fields = {**FORMS[form], **VARIANTS[variant]}
    proto = build_model(ModelOptions(**fields))
    done = convert(proto)
    assert list(done.signature.inputs) == ["input_ids", "write_indices", "nonpad_kv_seqlen"]
    assert done.signature.cache.style == "scatter"
    assert done.signature.opset == 24
    assert {note.mask for note in done.layers} == {"causal"}
    ops = count_ops(done.model)
    assert (ops["TensorScatter"], ops["Attention"]) == (4, 2)
    assert not {"Concat", "Softmax", "Expand"} & ops.keys()
    assert_same(proto, done)


@pytest.mark.parametrize("form", FORMS)
def test_onnx_runtime_computes_the_same(form: str) -> None:
    proto = build_model(ModelOptions(**FORMS[form]))
    assert_same(proto, convert(proto), runner=on_ort)


@pytest.mark.parametrize("style", ["concat", "decomposed"])
def test_positions_by_sines_in_the_graph(style: str) -> None:
    """The graph's own positions have no rows; each row of the result has positions of its own."""
    proto = build_model(ModelOptions(style=style, positions="sincos", attention_mask=False))
    assert_same(proto, convert(proto))


def test_positions_with_an_offset() -> None:
    """OPT counts from 2; here the running sum of the mask itself indexes the table."""
    proto = build_model(
        ModelOptions(style="concat", positions="learned", attention_mask=True, positions_from_mask=True)
    )
    minus = next(node for node in proto.graph.node if node.op_type == "Sub")
    minus.input[1] = "int_0"
    done = convert(proto)
    assert count_ops(done.model)["Add"] > count_ops(ir.from_proto(proto)).get("Add", 0)
    assert_same(proto, done)


@pytest.mark.parametrize("side", [0, 1])
def test_a_scale_on_queries_or_keys(side: int) -> None:
    """The decomposition of scaled-dot-product attention puts a root of the scale on either."""
    proto = build_model(ModelOptions(style="decomposed"))
    graph = proto.graph
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    makers = {node.output[0]: node for node in graph.node}
    for place in range(len(graph.node) - 1, -1, -1):
        product = graph.node[place]
        turned = makers.get(product.input[1]) if product.op_type == "MatMul" else None
        if turned is None or turned.op_type != "Transpose" or list(turned.attribute[0].ints) != [0, 1, 3, 2]:
            continue
        (scale,) = (node for node in graph.node if node.op_type == "Mul" and node.input[0] == product.output[0])
        moved = helper.make_node("Mul", [product.input[side], scale.input[1]], [f"scaled_{place}"])
        scale.input[1], product.input[side] = "one", moved.output[0]
        graph.node.insert(place, moved)
    done = convert(proto)
    assert {
        node.attributes["scale"].value if "scale" in node.attributes else None
        for node in done.model.graph
        if node.op_type == "Attention"
    } == {None}
    assert_same(proto, done)


@pytest.mark.parametrize("name", ["base", "partial", "softcap"])
def test_golden_models_keep_their_reference(name: str) -> None:
    """Operators of opset 18 and positions without rows, against logits that no ONNX runtime computed."""
    golden = open_golden(name, "concat", "float32")
    source = onnx.load(golden.folder / "model.onnx")
    done = convert(source)
    drive = Drive(on_reference(done.model), done.signature, batch_size=len(golden.tokens), capacity=64)
    last = golden.tokens.shape[1]
    drive.step(golden.tokens[:, : last - 1])
    logits = drive.step(golden.tokens[:, last - 1 :])
    for row in range(len(golden.tokens)):
        assert np.abs(logits[row, -1] - golden.after(row, last)).max() <= golden.tolerance
    assert_same(source, done, highest_id=done.signature.vocab_size)


def test_half_precision() -> None:
    proto = build_model(ModelOptions(style="decomposed", dtype="float16"))
    assert_same(proto, convert(proto), tolerance=2e-2)


def test_an_older_opset_is_raised() -> None:
    """Attention is of opset 23; what was spelled out for opset 17 says its axes and parts in another way."""
    proto = build_model(ModelOptions(style="decomposed", positions="sincos"))
    for node in proto.graph.node:
        if node.op_type == "RMSNormalization":
            node.op_type = "LayerNormalization"
    proto.opset_import[0].version = 17
    onnx.checker.check_model(proto)
    done = convert(proto)
    assert done.signature.opset == 24
    assert_same(proto, done)


def test_a_fixed_capacity() -> None:
    done = convert(build_model(ModelOptions(style="concat")), capacity=48)
    assert done.signature.cache.fixed_capacity == 48


# Contrib GroupQueryAttention.


def grouped(change: Any = None, **fields: Any) -> onnx.ModelProto:
    proto = build_model(ModelOptions(style="shared", position_ids=True, **fields))
    for node in proto.graph.node:
        if change is not None and node.op_type == "GroupQueryAttention":
            change(node)
    return proto


@pytest.mark.parametrize("fields", [{}, {"attention_mask": False}, {"softcap": 5.0}, {"positions": "learned"}])
@pytest.mark.parametrize("window", [-1, 4])
def test_group_query_attention(fields: dict[str, Any], window: int) -> None:
    proto = grouped(lambda node: node.attribute.append(helper.make_attribute("local_window_size", window)), **fields)
    done = convert(proto)
    assert {(note.form, note.mask) for note in done.layers} == {
        ("GroupQueryAttention", "causal" if window < 0 else "window 4")
    }
    assert list(done.signature.inputs) == ["input_ids", "write_indices", "nonpad_kv_seqlen"]
    assert not [node for node in done.model.graph if node.domain]
    source, signature = load(proto)
    drives = Drive(on_ort(source), signature), Drive(on_reference(done.model), done.signature)
    assert same_steps(*drives, ragged=False) < 1e-5


# Masks.


@pytest.mark.parametrize("spelling", ["bool", "float", "finite"])
@pytest.mark.parametrize("style", ["concat_nodes", "decomposed"])
def test_windows_by_layer(style: str, spelling: str) -> None:
    """One layer with a window, one without: the window stays right for rows of unequal length."""
    proto = masked_model(kinds=("window", "causal"), size=4, spelling=spelling, style=style)
    done = convert(proto)
    assert [note.mask for note in done.layers] == ["window 4", "causal"]
    assert_same(proto, done)
    assert_same(proto, done, runner=on_ort)


def test_a_window_longer_than_any_probe_but_in_the_graph() -> None:
    done = convert(masked_model("window", size=1000))
    assert {note.mask for note in done.layers} == {"window 1000"}


def test_a_window_of_one_key() -> None:
    proto = masked_model("window", size=1)
    done = convert(proto)
    assert {note.mask for note in done.layers} == {"window 1"}
    assert_same(proto, done)


@pytest.mark.parametrize("style", ["concat_nodes", "decomposed"])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("chunk", "neither causal nor a sliding window: with .* key .* (visible|hidden) to the query at position"),
        ("ahead", "neither causal nor a sliding window: .* key 1 is visible to the query at position 0"),
    ],
)
def test_other_masks_are_refused_with_the_first_difference(style: str, mask: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        convert(masked_model(mask, style=style))


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("concat_nodes", "adds -0.25 to a score, first at query 1, key 0: a bias by position"),
        ("decomposed", "the score of query 1, key 0, head 0 is off by -0.25"),
    ],
)
def test_a_bias_by_position_is_refused(style: str, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        convert(masked_model("bias", style=style, spelling="float"))


# Other refusals.


def edited(change: Any, **fields: Any) -> onnx.ModelProto:
    proto = build_model(ModelOptions(**{"style": "decomposed", **fields}))
    change(proto.graph)
    return proto


def test_a_learned_sink_is_refused() -> None:
    def add_sink(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.zeros((1, 4, 1, 1), np.float32), "sink"))
        place = next(index for index, node in enumerate(graph.node) if node.op_type == "Softmax")
        softmax = graph.node[place]
        shape = helper.make_node("Shape", [softmax.input[0]], ["sink_shape"], start=0, end=3)
        one = helper.make_node("Constant", [], ["sink_one"], value_ints=[1])
        whole = helper.make_node("Concat", ["sink_shape", "sink_one"], ["sink_whole"], axis=0)
        wide = helper.make_node("Expand", ["sink", "sink_whole"], ["sink_wide"])
        joined = helper.make_node("Concat", [softmax.input[0], "sink_wide"], ["joined"], axis=-1)
        begin, end = (helper.make_node("Constant", [], [name], value_ints=[at]) for name, at in (("b", 0), ("e", -1)))
        axis = helper.make_node("Constant", [], ["axis"], value_ints=[3])
        cut = helper.make_node("Slice", ["weights", "b", "e", "axis"], [softmax.output[0]])
        softmax.input[0], softmax.output[0] = "joined", "weights"
        for node in (begin, end, axis, cut)[::-1]:
            graph.node.insert(place + 1, node)
        for node in (shape, one, whole, wide, joined)[::-1]:
            graph.node.insert(place, node)

    with pytest.raises(UnsupportedModelError, match="a learned sink"):
        convert(edited(add_sink))


def test_heads_in_another_order_are_refused() -> None:
    """Tiled heads (0, 1, 0, 1) are not repeated ones (0, 0, 1, 1)."""

    def tile(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            if node.op_type == "Unsqueeze" and node.input[0].startswith("present."):
                node.input[1] = "axis_1"
            if node.op_type == "Expand":
                node.input[1] = "tiles"
        graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis_1"))
        graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 1, 1, 1]), "tiles"))

    with pytest.raises(UnsupportedModelError, match="more than repeated heads and a change of layout"):
        convert(edited(tile))


def test_scaled_values_are_refused() -> None:
    def scale(graph: onnx.GraphProto) -> None:
        for index, node in enumerate(graph.node):
            if node.op_type == "Unsqueeze" and node.input[0] == "present.0.value":
                graph.node.insert(index, helper.make_node("Mul", ["present.0.value", "two"], ["doubled"]))
                node.input[0] = "doubled"
                break
        graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))

    with pytest.raises(UnsupportedModelError, match=r"values .* are scaled"):
        convert(edited(scale))


def test_a_mask_that_hides_activations_is_refused() -> None:
    """attention_mask on the hidden states, as for padding in an encoder: without the input it could not be fed."""

    def gate(graph: onnx.GraphProto) -> None:
        last = graph.node[-1]
        new = [
            helper.make_node("Cast", ["attention_mask"], ["gate_float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["gate_float"], ["gate"], keepdims=1),
            helper.make_node("Mul", [last.input[0], "gate"], ["gated"]),
        ]
        last.input[0] = "gated"
        del graph.node[-1]
        graph.node.extend([*new, last])

    with pytest.raises(UnsupportedModelError, match=r"follows from .* the attention mask and still feeds the .*Mul"):
        convert(edited(gate, attention_mask=True))


def test_a_model_with_tensor_scatter_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="TensorScatter already"):
        convert(build_model(ModelOptions(style="scatter")))


def test_an_opset_too_old_is_refused() -> None:
    proto = build_model(ModelOptions(style="decomposed", positions="sincos"))
    proto.opset_import[0].version = 12
    with pytest.raises(UnsupportedModelError, match="opset 12, at least 13"):
        to_scatter(ir.from_proto(proto))
