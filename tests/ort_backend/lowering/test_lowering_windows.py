# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Explicit masks become the operator's window, in every form in which exporters write them; others are refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from genai_iface_ort.lowering.lower import lower
from tests.models import ModelOptions, build_model
from tests.ort_backend.lowering.masks import BIASES, FORMS, REFUSED, masked_model
from tests.transform.convert.drive import Drive, count_ops, load, on_ort, on_reference, same_steps


def _same(proto, lowered) -> float:
    before, signature = load(proto)
    got = Drive(
        on_ort(lowered.model),
        lowered.signature,
        batch_size=3,
        capacity=40,
        logits_positions=lowered.logits_positions,
        query_seqlens=lowered.query_seqlens,
    )
    return same_steps(Drive(on_reference(before), signature, batch_size=3, capacity=40), got)


def _windows(lowered) -> set[int]:
    nodes = [node for node in lowered.model.graph if node.op_type == "GroupQueryAttention"]
    assert len(nodes) == 2, [str(note) for note in lowered.notes]
    return {node.attributes["local_window_size"].as_int() for node in nodes}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["bnsh", "bsh"])
def test_a_window_in_any_form_moves_into_the_operator(form, layout):
    proto = masked_model(form, layout=layout)
    lowered = lower(*load(proto), level="runtime")
    assert _windows(lowered) == {5}
    assert _same(proto, lowered) < 2e-5
    # The mask's arithmetic is gone, and with it the last reader of a cache.
    assert not {"Range", "Greater", "And", "Where"} & set(count_ops(lowered.model))


@pytest.mark.parametrize("form", BIASES)
@pytest.mark.parametrize("layout", ["bnsh", "bsh"])
def test_what_is_added_to_scores_goes_into_the_operator(form, layout):
    proto = masked_model(form, layout=layout)
    lowered = lower(*load(proto), level="runtime")
    assert _windows(lowered) == {-1}
    assert all(node.inputs[10] is not None for node in lowered.model.graph if node.op_type == "GroupQueryAttention")
    assert _same(proto, lowered) < 2e-5


@pytest.mark.parametrize("window", [1, 2, 39, 700, 4096])
def test_windows_of_any_size(window):
    proto = masked_model("both conditions", window=window)
    lowered = lower(*load(proto), level="runtime")
    assert _windows(lowered) == {window}
    assert _same(proto, lowered) < 2e-5


def test_a_mask_that_is_only_causal_leaves_no_window():
    proto = masked_model("both conditions")
    for node in proto.graph.node:
        if node.op_type == "Attention":
            node.input[3] = "causal"
    lowered = lower(*load(proto), level="runtime")
    assert _windows(lowered) == {-1}
    assert _same(proto, lowered) < 2e-5


def test_the_smaller_of_mask_and_attribute_counts():
    proto = masked_model("the operator is causal")
    proto.opset_import[0].version = 25
    attentions = [node for node in proto.graph.node if node.op_type == "Attention"]
    for node, left in zip(attentions, (2, 9), strict=True):
        node.attribute.append(helper.make_attribute("left_window_size", left))
    lowered = lower(*load(proto), level="runtime")
    assert _windows(lowered) == {3, 5}
    assert _same(proto, lowered) < 2e-5


@pytest.mark.parametrize("form", REFUSED)
def test_a_mask_that_is_no_window_keeps_attention_standard(form):
    proto = masked_model(form)
    lowered = lower(*load(proto), level="runtime")
    note = next(note for note in lowered.notes if note.rewrite == "group-query-attention")
    assert not note.applied
    assert "not shown to be causal or a sliding window" in note.reason


def _with_reader(node, *, layout="bnsh"):
    """A batch that is read from a cache, as exporters do, for the target of a Reshape."""
    proto = build_model(ModelOptions(head_dim=16, layout=layout))
    graph = proto.graph
    graph.node.insert(0, node)
    graph.node.insert(1, helper.make_node("Gather", ["sizes", "which"], ["batch"], axis=0))
    graph.node.insert(2, helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0))
    graph.node.insert(3, helper.make_node("Reshape", ["write_indices", "target"], ["begin"]))
    for name, value in {"which": [0], "rest": [1]}.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    graph.node.insert(4, helper.make_node("Reshape", ["begin", "flat"], ["write_indices_again"]))
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "flat"))
    for each in graph.node:
        if each.op_type == "TensorScatter":
            each.input[2] = "write_indices_again"
    return proto


@pytest.mark.parametrize("layout", ["bnsh", "bsh"])
@pytest.mark.parametrize("limits", [{}, {"start": 0, "end": 1}, {"end": -1}])
def test_a_batch_size_read_from_a_cache_does_not_matter(layout, limits):
    plain = build_model(ModelOptions(head_dim=16, layout=layout))
    past = next(value.name for value in plain.graph.input if len(value.type.tensor_type.shape.dim) > 2)
    proto = _with_reader(helper.make_node("Shape", [past], ["sizes"], **limits), layout=layout)
    onnx.checker.check_model(proto)
    lowered = lower(*load(proto), level="runtime")
    assert _windows(lowered) == {-1}
    assert _same(proto, lowered) < 2e-5
    inputs = {value.name: value for value in lowered.model.graph.inputs}
    assert {node.op_type for node, _ in inputs[past].uses()} == {"GroupQueryAttention"}
