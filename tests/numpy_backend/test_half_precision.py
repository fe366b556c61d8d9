# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Operators of a decoder in float16 and bfloat16, with small and large values, against float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from genai_iface_numpy.evaluator import Evaluator

Array = NDArray[Any]
TYPES = {
    "float16": (np.float16, TensorProto.FLOAT16, 2.0**-10),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16, 2.0**-7),
}
SCALES = {"small": 1e-3, "unit": 1.0, "large": 400.0}
WIDTH = 576

erf = np.vectorize(math.erf)


def softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def rms_norm(x: Array, scale: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered * centered).mean(-1, keepdims=True) + 1e-5) * scale + bias


def rotated(x: Array, cos: Array, sin: Array) -> Array:
    one, other = np.split(x, 2, axis=-1)
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate((one * cos - other * sin, one * sin + other * cos), axis=-1)


def attended(query: Array, key: Array, value: Array) -> Array:
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    return softmax(scores) @ value


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# Operator: shapes of its inputs as functions of a generator and a scale, attributes, the exact result.
Inputs = Callable[[np.random.Generator, float], list[Array]]


def hidden(rng: np.random.Generator, scale: float) -> Array:
    return rng.standard_normal((4, WIDTH)) * scale


def weights(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape) * 0.05


CASES: dict[str, tuple[str, Inputs, dict[str, Any], Callable[..., Array]]] = {
    "RMSNormalization": ("RMSNormalization", lambda r, s: [hidden(r, s), 1 + weights(r, WIDTH)], {}, rms_norm),
    "LayerNormalization": (
        "LayerNormalization",
        lambda r, s: [hidden(r, s), 1 + weights(r, WIDTH), weights(r, WIDTH)],
        {},
        layer_norm,
    ),
    "Softmax": ("Softmax", lambda r, s: [hidden(r, s)], {}, softmax),
    "LogSoftmax": ("LogSoftmax", lambda r, s: [hidden(r, min(s, 10))], {}, log_softmax),
    "Gelu": ("Gelu", lambda r, s: [hidden(r, s)], {}, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    "Gelu, tanh": (
        "Gelu",
        lambda r, s: [hidden(r, s)],
        {"approximate": "tanh"},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "Sigmoid": ("Sigmoid", lambda r, s: [hidden(r, s)], {}, lambda x: 1 / (1 + np.exp(-x))),
    "Swish": ("Swish", lambda r, s: [hidden(r, s)], {}, lambda x: x / (1 + np.exp(-x))),
    "ReduceMean": ("ReduceMean", lambda r, s: [hidden(r, s)], {}, lambda x: x.mean(keepdims=True)),
    "ReduceSum": ("ReduceSum", lambda r, s: [hidden(r, s)], {}, lambda x: x.sum(keepdims=True)),
    "ReduceSumSquare": ("ReduceSumSquare", lambda r, s: [hidden(r, s / 100)], {}, lambda x: (x * x).sum(keepdims=True)),
    "ReduceL2": ("ReduceL2", lambda r, s: [hidden(r, s)], {}, lambda x: np.sqrt((x * x).sum(keepdims=True))),
    "CumSum": ("CumSum", lambda r, s: [hidden(r, s), np.array(1)], {}, lambda x, axis: x.cumsum(axis)),
    "MatMul": ("MatMul", lambda r, s: [hidden(r, s), weights(r, WIDTH, 64)], {}, lambda a, b: a @ b),
    "Gemm": (
        "Gemm",
        lambda r, s: [hidden(r, s), weights(r, WIDTH, 64), weights(r, 64)],
        {},
        lambda a, b, c: a @ b + c,
    ),
    "Einsum": (
        "Einsum",
        lambda r, s: [hidden(r, s), weights(r, WIDTH, 8)],
        {"equation": "ij,jk->ik"},
        lambda a, b: a @ b,
    ),
    "Conv": (
        "Conv",
        lambda r, s: [r.standard_normal((1, WIDTH, 1)) * s, weights(r, 8, WIDTH, 1)],
        {},
        lambda x, w: np.einsum("bcl,oc->bol", x, w[:, :, 0]),
    ),
    "RotaryEmbedding": (
        "RotaryEmbedding",
        lambda r, s: [
            r.standard_normal((2, 4, 9, 64)) * s,
            *(angle(r.standard_normal((2, 9, 32))) for angle in (np.cos, np.sin)),
        ],
        {},
        rotated,
    ),
    "Attention": (
        "Attention",
        lambda r, s: [r.standard_normal((1, 2, n, 16)) * (s if s < 100 else 8) for n in (3, 900, 900)],
        {},
        attended,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", SCALES)
def test_the_error_is_that_of_the_result(name: str, dtype: str, scale: str) -> None:
    """At most two steps of the type, counted at the size of the row's largest result."""
    operator, make, attributes, exact = CASES[name]
    numpy_type, onnx_type, step = TYPES[dtype]
    inputs = [
        value.astype(numpy_type) if value.dtype.kind == "f" else value
        for value in make(np.random.default_rng(5), SCALES[scale])
    ]
    names = [f"x{index}" for index in range(len(inputs))]
    kinds = [onnx_type if value.dtype == numpy_type else TensorProto.INT64 for value in inputs]
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], **attributes)],
        "one operator",
        [helper.make_tensor_value_info(each, kind, None) for each, kind in zip(names, kinds, strict=True)],
        [helper.make_tensor_value_info("y", onnx_type, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])
    (got,) = Evaluator(ir.from_proto(model), keep=["y"]).run(dict(zip(names, inputs, strict=True)), ["y"])
    assert got.dtype == numpy_type
    with np.errstate(all="ignore"):
        wanted = exact(*(value.astype(np.float64) if value.dtype == numpy_type else value for value in inputs))
        rounded = wanted.astype(numpy_type).astype(np.float64)
    finite = np.isfinite(rounded)
    assert (np.isfinite(got.astype(np.float64)) == finite).all()
    largest = np.abs(rounded).max(axis=-1, keepdims=True, where=finite, initial=0)
    error = np.abs(got.astype(np.float64) - rounded)
    assert (error <= 2 * step * np.maximum(largest, 1e-6))[finite].all(), (
        f"{error[finite].max():.3g} of {largest.max():.3g}"
    )
