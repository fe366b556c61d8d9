# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Merged decoders: opening one computes nothing of it, whatever stands in its branches."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from genai_iface.folder import open_folder
from tests.layouts.corpus import JS, PROMPT, STEPS
from tests.layouts.decoder import with_clear_tokens
from tests.layouts.files import beside, merged, save

DECODER = with_clear_tokens(JS, PROMPT, STEPS, margin=0.02)


def endless_loop(branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    body = helper.make_graph(
        [helper.make_node("Identity", ["goes_on"], ["on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
        ],
    )
    branch.initializer.append(helper.make_tensor("trips", TensorProto.INT64, [], [2**60]))
    branch.initializer.append(helper.make_tensor("always", TensorProto.BOOL, [], [1]))
    branch.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
    return [helper.make_node("Loop", ["trips", "always", "zero"], ["hidden"], body=body)]


def huge_tensor(branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    branch.initializer.append(helper.make_tensor("sizes", TensorProto.INT64, [2], [2**20, 2**20]))
    return [
        helper.make_node("ConstantOfShape", ["sizes"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["hidden"], keepdims=0),
    ]


def long_vector(branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Shape inference that follows values would list its elements."""
    branch.initializer.append(helper.make_tensor("sizes", TensorProto.INT64, [1], [2**31]))
    return [
        helper.make_node("ConstantOfShape", ["sizes"], ["long"]),
        helper.make_node("Concat", ["long", "long"], ["longer"], axis=0),
        helper.make_node("ReduceMax", ["longer"], ["hidden"], keepdims=0),
    ]


@pytest.mark.parametrize("change", [endless_loop, huge_tensor, long_vector])
def test_nothing_is_computed(change: Callable[[onnx.GraphProto], list[onnx.NodeProto]], tmp_path: Path) -> None:
    model = merged(DECODER.model)
    choice = next(node for node in model.graph.node if node.op_type == "If")
    branch = next(given.g for given in choice.attribute if given.name == "then_branch")
    nodes = list(branch.node)
    place = next(at for at, node in enumerate(nodes) if node.op_type == "Softmax")
    added = [*change(branch), helper.make_node("Add", [nodes[place].input[0], "hidden"], ["scores"])]
    nodes[place].input[0] = "scores"
    del branch.node[:]
    branch.node.extend([*nodes[:place], *added, *nodes[place:]])
    beside(tmp_path)
    save(model, tmp_path / "decoder_model_merged.onnx")
    started = time.process_time()
    assert open_folder(tmp_path).signature.one_token
    assert time.process_time() - started < 3
