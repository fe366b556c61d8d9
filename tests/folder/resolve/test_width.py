# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Merged decoders: several tokens at once where the graph shows that it takes them, else one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from genai_iface.folder import open_folder
from tests.layouts.corpus import JS, PROMPT, STEPS
from tests.layouts.decoder import greedy_tokens, with_clear_tokens
from tests.layouts.files import beside, merged, save
from tests.layouts.test_layouts import tokens_of

DECODER = with_clear_tokens(JS, PROMPT, STEPS, margin=0.02)


def as_it_is(branch: onnx.GraphProto, constants: list[onnx.TensorProto]) -> None:
    pass


def without_mask(branch: onnx.GraphProto, constants: list[onnx.TensorProto]) -> None:
    """As one token is traced: nothing comes after it, so nothing is hidden."""
    makers = {node.output[0]: node for node in branch.node}
    for softmax in [node for node in branch.node if node.op_type == "Softmax"]:
        masked = makers[softmax.input[0]]
        assert masked.op_type in ("Add", "Where")
        scores = masked.input[0] if masked.op_type == "Add" else masked.input[1]
        softmax.input[0] = scores


def of_width_1(branch: onnx.GraphProto, constants: list[onnx.TensorProto]) -> None:
    """As one token is traced: its width stands in the targets of Reshape."""
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in constants}
    reshape = next(node for node in branch.node if node.op_type == "Reshape" and node.input[1] in values)
    target = values[reshape.input[1]].copy()
    assert len(target) >= 3
    target[1] = 1
    branch.initializer.append(onnx.numpy_helper.from_array(target, "width_1"))
    reshape.input[1] = "width_1"


@pytest.mark.parametrize(("change", "one_token"), [(as_it_is, False), (without_mask, True), (of_width_1, True)])
def test_a_branch_that_was_traced_with_one_token_gives_itself_away(
    change: Callable[[onnx.GraphProto, list[onnx.TensorProto]], None], one_token: bool, tmp_path: Path
) -> None:
    model = merged(DECODER.model)
    choice = next(node for node in model.graph.node if node.op_type == "If")
    branch = next(given.g for given in choice.attribute if given.name == "then_branch")
    change(branch, list(model.graph.initializer))
    beside(tmp_path)
    save(model, tmp_path / "decoder_model_merged.onnx")
    opened = open_folder(tmp_path)
    assert opened.signature.one_token == one_token
    assert any("token by token" in change for change in opened.changes) == one_token
    wanted, _ = greedy_tokens(DECODER, PROMPT, STEPS)
    assert tokens_of(opened.source, "numpy") == wanted
