# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Zeros for attention that sees no key, as Transformers' exporter writes them: they go, and only they."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from genai_iface.transform._empty_rows import drop_empty_rows
from genai_iface.transform._graph_probe import GraphProbe
from genai_iface.transform.convert import to_scatter
from tests.transform.convert.concat_graphs import masked_model
from tests.transform.convert.drive import Drive, count_ops, load, on_reference, same_steps


def guarded(mask: str, *, least: int = 1, instead: float = 0.0) -> onnx.ModelProto:
    """A decoder whose attention gives ``instead`` where a query sees fewer than ``least`` keys."""
    model = masked_model(mask, size=4)
    graph = model.graph
    for name, values in (("guard.axes", [-1]), ("guard.least", np.float32(least)), ("guard.zero", np.float32(instead))):
        graph.initializer.append(numpy_helper.from_array(np.array(values), name))
    for place in reversed([index for index, node in enumerate(graph.node) if node.op_type == "Attention"]):
        attention = graph.node[place]
        seen, result, tag = attention.input[3], attention.output[0], f"guard.{place}"
        attention.output[0] = f"{tag}.plain"
        nodes = [
            helper.make_node("Cast", [seen], [f"{tag}.seen"], to=onnx.TensorProto.FLOAT),
            helper.make_node("ReduceSum", [f"{tag}.seen", "guard.axes"], [f"{tag}.keys"], keepdims=1),
            helper.make_node("Less", [f"{tag}.keys", "guard.least"], [f"{tag}.empty"]),
            helper.make_node("Where", [f"{tag}.empty", "guard.zero", f"{tag}.plain"], [result]),
        ]
        for offset, node in enumerate(nodes, 1):
            graph.node.insert(place + offset, node)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("mask", ["causal", "window"])
def test_a_guarded_decoder_converts_as_the_plain_one(mask: str) -> None:
    source, signature = load(guarded(mask))
    converted = to_scatter(load(guarded(mask))[0])
    assert not {"Where", "ReduceSum", "Less"} & {*count_ops(converted.model)}
    assert [str(layer.mask) for layer in converted.layers] == [("causal" if mask == "causal" else "window 4")] * 2
    drive = Drive(on_reference(converted.model), converted.signature, capacity=40)
    assert same_steps(Drive(on_reference(source), signature), drive, ragged=False) < 1e-5


@pytest.mark.parametrize(("least", "instead"), [(3, 0.0), (1, 0.5)])
def test_what_is_no_such_guard_stays(least: int, instead: float) -> None:
    model, signature = load(guarded("causal", least=least, instead=instead))
    before = len(model.graph)
    assert drop_empty_rows(model, GraphProbe(model, signature)) == 0
    assert len(model.graph) == before
