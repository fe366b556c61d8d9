# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""CacheShapes: sizes come from elsewhere than the cache, and are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from genai_iface.transform import CacheShapes
from tests.models import ModelOptions, build_model
from tests.transform.convert.drive import load

LIMITS = [{}, {"start": 0, "end": 1}, {"start": 1}, {"start": -1}, {"start": 1, "end": 3}, {"end": -1}]


def _asked(layout: Any, limits: dict[str, int], *, present: bool = False) -> tuple[onnx.ModelProto, str]:
    """A model that gives a shape of a cache as a further output."""
    proto = build_model(ModelOptions(layout=layout, head_dim=16))
    names = proto.graph.output if present else proto.graph.input
    cache = next(value.name for value in names if len(value.type.tensor_type.shape.dim) > 2 and "key" in value.name)
    proto.graph.node.append(helper.make_node("Shape", [cache], ["sizes"], **limits))
    proto.graph.output.append(helper.make_tensor_value_info("sizes", onnx.TensorProto.INT64, ["N"]))
    return proto, cache


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("layout", ["bnsh", "bsh"])
def test_sizes_are_the_same(layout: str, limits: dict[str, int], present: bool) -> None:
    import onnx_ir as ir

    proto, cache = _asked(layout, limits, present=present)
    model, signature = load(proto)
    rewrite = CacheShapes(signature)
    rewrite(model)
    assert rewrite.note.applied
    axis = 2 if layout == "bnsh" else 1
    values = {str(value.name): value for value in (*model.graph.inputs, *model.graph.outputs)}
    for node, _ in values[cache].uses():
        if node.op_type == "Shape":
            assert [node.attributes[name].as_int() for name in ("start", "end")] == [axis, axis + 1]
    sizes = (3, 2, 9, 16) if layout == "bnsh" else (3, 9, 32)
    feeds = {str(value.name): np.zeros(sizes, np.float32) for value in model.graph.inputs if "past" in str(value.name)}
    feeds |= {"input_ids": np.ones((3, 2), np.int64), "write_indices": np.zeros(3, np.int64)}
    feeds |= {"nonpad_kv_seqlen": np.full(3, 2)}
    given = {str(value.name) for value in model.graph.inputs}
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    (found,) = evaluator.run(["sizes"], {name: value for name, value in feeds.items() if name in given})
    wanted = np.array(sizes)[slice(limits.get("start"), limits.get("end"))]
    assert found.tolist() == wanted.tolist()


def test_the_capacity_is_left_where_it_is() -> None:
    proto, _ = _asked("bnsh", {"start": 2, "end": 3})
    model, signature = load(proto)
    rewrite = CacheShapes(signature)
    rewrite(model)
    assert str(rewrite.note) == "cache-shapes: not applied (no size but the capacity is read from a cache)"


def test_another_style_is_left_alone() -> None:
    model, signature = load(build_model(ModelOptions(style="concat")))
    rewrite = CacheShapes(signature)
    rewrite(model)
    assert str(rewrite.note) == "cache-shapes: not applied (the cache is of style concat)"
