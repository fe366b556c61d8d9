# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The ONNX project's own node tests, run through the backend's evaluator."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from genai_iface_numpy.evaluator import Evaluator

OPERATORS = ("attention", "tensorscatter", "rotary_embedding", "rms_normalization")


def base_cases() -> list[TestCase]:
    """All cases of the four operators, without their expansions into primitive operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases of other operators overflow on purpose while they are made
        loaded = load_model_tests(kind="node")
    cases = [
        case
        for case in loaded
        if case.name.startswith(tuple(f"test_{operator}" for operator in OPERATORS)) and "_expanded" not in case.name
    ]
    return sorted(cases, key=lambda case: case.name)


CASES = base_cases()


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_cases_are_found(operator: str) -> None:
    minimum = {"attention": 93, "tensorscatter": 3, "rotary_embedding": 8, "rms_normalization": 19}[operator]
    assert sum(case.name.startswith(f"test_{operator}") for case in CASES) >= minimum


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.removeprefix("test_"))
def test_node_case(case: TestCase) -> None:
    model: onnx.ModelProto = case.model
    names = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    evaluator = Evaluator(ir.from_proto(model), keep=outputs)
    for inputs, expected in case.data_sets:
        feeds = {name: np.array(value) for name, value in zip(names, inputs, strict=False)}
        got = evaluator.run(feeds, outputs)
        for name, value, reference in zip(outputs, got, expected, strict=True):
            assert value.shape == reference.shape, name
            assert value.dtype == reference.dtype, name
            np.testing.assert_allclose(_plain(value), _plain(reference), rtol=case.rtol, atol=case.atol, err_msg=name)


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # NumPy cannot compare bfloat16 with a tolerance.
    return array.astype(np.float64) if array.dtype.kind in "fV" else array
