# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""RotaryTables: cos and sin from constants, the same to the bit; left alone where they depend on something else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from genai_iface.transform.fuse.rotary_tables import RotaryTables

_CONTRACT: Any = SimpleNamespace(inputs={"input_ids": "input_ids", "write_indices": "write_indices"})


_PLAIN = "angles = Mul (column, frequencies)"


def model_with(angles: str = _PLAIN) -> ir.Model:
    """Rotates x by angles that follow from the positions in a way of the caller's."""
    text = f"""
        <ir_version: 10, opset_import: ["": 24]>
        rotate (int64[B, S] input_ids, int64[B] write_indices, float[B, 2, S, 8] x) => (float[B, 2, S, 8] y)
        <float[1, 1, 4] frequencies = {{1.0, 0.5, 0.25, 0.125}}, int64 zero = {{0}}, int64 one = {{1}},
         int64[1] axis1 = {{1}}, int64[1] axis2 = {{2}}>
        {{
            width = Shape <start: int = 1, end: int = 2> (input_ids)
            count = Squeeze (width)
            steps = Range (zero, count, one)
            begin = Unsqueeze (write_indices, axis1)
            positions = Add (begin, steps)
            numbers = Cast <to: int = 1> (positions)
            column = Unsqueeze (numbers, axis2)
            {angles}
            cos = Cos (angles)
            sin = Sin (angles)
            y = RotaryEmbedding (x, cos, sin)
        }}
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    ir.passes.common.ShapeInferencePass()(model)
    return model


def run(model: ir.Model, start: list[int], width: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    feeds = {
        "input_ids": np.zeros((len(start), width), np.int64),
        "write_indices": np.array(start),
        "x": draw.standard_normal((len(start), 2, width, 8), np.float32),
    }
    return ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]


def test_a_step_reads_its_rows() -> None:
    model = model_with()
    rewrite = RotaryTables(_CONTRACT, 32)
    rewrite(model)
    assert rewrite.note.count == 1
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert not {"Cos", "Sin"} & {node.op_type for node in model.graph}
    tables = [value.const_value for value in model.graph.initializers.values() if value.shape == ir.Shape((32, 4))]
    assert len(tables) == 2
    for start, width in (([0, 5, 20], 4), ([31], 1)):
        want = run(model_with(), start, width)
        np.testing.assert_array_equal(run(model, start, width), want)


@pytest.mark.parametrize(
    "angles",
    [
        "largest = ReduceMax <keepdims: int = 0> (x) angles = Mul (column, largest)",
        "least = ReduceMin (column) moved = Sub (column, least) angles = Mul (moved, frequencies)",
    ],
    ids=["on activations", "on other tokens of the step"],
)
def test_angles_that_depend_on_more_stay(angles: str) -> None:
    model = model_with(angles)
    rewrite = RotaryTables(_CONTRACT, 32)
    rewrite(model)
    assert not rewrite.note.applied
    assert "Cos" in {node.op_type for node in model.graph}
