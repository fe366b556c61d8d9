# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs with contrib operators whose parts contradict each other, as fuzzing found them: typed errors, no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from genai_iface import GenAIError, load_model
from tests.models import write_folder


def retype(model: onnx.ModelProto) -> None:
    """Integers where a product takes floats."""
    node = next(node for node in model.graph.node if node.op_type == "MatMul")
    for tensor in model.graph.initializer:
        if tensor.name == node.input[1]:
            tensor.CopyFrom(
                onnx.helper.make_tensor(tensor.name, onnx.TensorProto.INT64, list(tensor.dims), [0] * _size(tensor))
            )


def split(model: onnx.ModelProto) -> None:
    """An operator in the place of another, with attributes that it does not have."""
    node = next(node for node in model.graph.node if node.op_type == "MatMul")
    node.op_type = "Split"
    node.attribute.append(onnx.helper.make_attribute("axis", 7))


def rename(model: onnx.ModelProto) -> None:
    """An operator of the contrib domain that takes other inputs."""
    node = next(node for node in model.graph.node if node.op_type == "MatMul")
    node.domain, node.op_type = "com.microsoft", "MatMulNBits"


def _size(tensor: onnx.TensorProto) -> int:
    size = 1
    for length in tensor.dims:
        size *= length
    return size


@pytest.mark.parametrize("change", [retype, split, rename])
def test_contradictions_are_refused(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    folder = write_folder(tmp_path, style="shared")
    model = onnx.load(folder / "model.onnx")
    change(model)
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(GenAIError):
        load_model(folder).create_cache(capacity=8)
