# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Decoders whose attention takes an explicit mask, in the forms that exporters write."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.models import ModelOptions, build_model

__all__ = ["BIASES", "FORMS", "REFUSED", "masked_model"]

WINDOW = 5

# From the conditions "key j is not after query i" and "j is within the window of i" to the mask.
FORMS: dict[str, tuple[int, Sequence[tuple[str, Sequence[str], str]]]] = {
    "both conditions": (0, [("And", ["causal", "near"], "mask")]),
    "the operator is causal": (1, [("Identity", ["near"], "mask")]),
    "the operator is causal too": (1, [("And", ["near", "causal"], "mask")]),
    "negated": (
        0,
        [
            ("Not", ["causal"], "after"),
            ("Not", ["near"], "before"),
            ("Or", ["after", "before"], "hidden"),
            ("Not", ["hidden"], "mask"),
        ],
    ),
    "added to scores": (0, [("And", ["causal", "near"], "seen"), ("Where", ["seen", "zero", "lowest"], "mask")]),
    "minus infinity": (0, [("And", ["causal", "near"], "seen"), ("Where", ["seen", "zero", "minus_inf"], "mask")]),
}

# What is added to the scores of causal attention.
BIASES: dict[str, tuple[int, Sequence[tuple[str, Sequence[str], str]]]] = {
    "a bias": (1, [("Where", ["near", "half", "minus_inf"], "mask")]),
    "hardly hidden": (1, [("Where", ["near", "zero", "minus_ten"], "mask")]),
    "by distance": (1, [("Sub", ["keys", "own"], "ago"), ("Cast", ["ago"], "far"), ("Mul", ["far", "half"], "mask")]),
}

# What no window says.
REFUSED: dict[str, tuple[int, Sequence[tuple[str, Sequence[str], str]]]] = {
    "first keys stay": (
        0,
        [("Less", ["keys", "two"], "first"), ("Or", ["near", "first"], "kept"), ("And", ["kept", "causal"], "mask")],
    ),
    "chunks": (
        1,
        [
            ("Div", ["keys", "window"], "chunk"),
            ("Div", ["own", "window"], "own_chunk"),
            ("Equal", ["chunk", "own_chunk"], "mask"),
        ],
    ),
    "looks ahead": (0, [("Add", ["own", "one"], "next"), ("LessOrEqual", ["keys", "next"], "mask")]),
    "not its own key": (0, [("Less", ["keys", "own"], "mask")]),
    "no own key": (1, [("Less", ["keys", "own"], "earlier"), ("Where", ["earlier", "half", "minus_inf"], "mask")]),
    "by token": (
        0,
        [
            ("Equal", ["input_ids", "one"], "is_image"),
            ("Unsqueeze", ["is_image", "axes"], "image"),
            ("Or", ["causal", "image"], "mask"),
        ],
    ),
}

_ATTRIBUTES = {"Cast": {"to": TensorProto.FLOAT}}
_CONDITIONS = [
    ("Squeeze", ["capacity_of_cache"], "capacity"),
    ("Range", ["zero_int", "capacity", "one"], "keys"),
    ("Squeeze", ["width_of_ids"], "width"),
    ("Range", ["zero_int", "width", "one"], "steps"),
    ("Unsqueeze", ["write_indices", "one_axis"], "begin"),
    ("Add", ["begin", "steps"], "positions"),
    ("Unsqueeze", ["positions", "axes"], "own"),
    ("LessOrEqual", ["keys", "own"], "causal"),
    ("Sub", ["own", "window"], "edge"),
    ("Greater", ["keys", "edge"], "near"),
]


def masked_model(form: str, *, window: int = WINDOW, **options: object) -> onnx.ModelProto:
    """A decoder whose layers share one mask."""
    proto = build_model(ModelOptions(**{"head_dim": 16, **options}))  # type: ignore[arg-type]
    graph = proto.graph
    axis = 2 if options.get("layout", "bnsh") == "bnsh" else 1
    past = next(value.name for value in graph.input if len(value.type.tensor_type.shape.dim) > 2)
    causal, steps = {**FORMS, **BIASES, **REFUSED}[form]
    nodes = [
        helper.make_node("Shape", [past], ["capacity_of_cache"], start=axis, end=axis + 1),
        helper.make_node("Shape", ["input_ids"], ["width_of_ids"], start=1, end=2),
        *(
            helper.make_node(kind, inputs, [output], **_ATTRIBUTES.get(kind, {}))
            for kind, inputs, output in (*_CONDITIONS, *steps)
        ),
    ]
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    numbers = {"zero_int": 0, "one": 1, "two": 2, "window": window, "one_axis": [1], "axes": [1, 3]}
    floats = {"zero": 0.0, "lowest": np.finfo(np.float32).min, "minus_inf": -np.inf, "half": 0.5, "minus_ten": -10.0}
    for values, dtype in ((numbers, np.int64), (floats, np.float32)):
        for name, value in values.items():
            graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
    for node in graph.node:
        if node.op_type == "Attention":
            node.input[3] = "mask"
            next(each for each in node.attribute if each.name == "is_causal").i = causal
    return proto
