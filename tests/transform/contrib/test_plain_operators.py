# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""Norms, activations, rotations and fused products against ONNX Runtime's kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from genai_iface.errors import UnsupportedModelError
from tests.transform.contrib.one_node import on_ort, one_node, same, standard

RANDOM = np.random.default_rng(0)
TOLERANCES = {np.float32: 1e-5, np.float16: 4e-3}


def draw(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    return RANDOM.standard_normal(shape).astype(dtype)


# Norms.


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_simplified_layer_normalization(domain: str, axis: int, dtype: Any) -> None:
    feeds = {"x": draw(2, 3, 16, dtype=dtype)}
    weights = {"g": draw(*(16,) if axis == -1 else (3, 16), dtype=dtype)}
    attributes = {"axis": axis, "epsilon": 1e-3, "domain": domain}
    model = one_node("SimplifiedLayerNormalization", ["x", "g"], feeds, weights, **attributes)
    if domain:
        # The kernel is registered in the default domain; other exporters name it here.
        assert standard(model).graph[0].op_type == "RMSNormalization"
    else:
        same(model, feeds, tolerance=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("used", [(0,), (0, 3), (3,)])
@pytest.mark.parametrize("kind", ["SkipSimplifiedLayerNormalization", "SkipLayerNormalization"])
def test_skip_norms(kind: str, used: tuple[int, ...], bias: bool, dtype: Any) -> None:
    feeds = {"x": draw(2, 3, 16, dtype=dtype), "skip": draw(2, 3, 16, dtype=dtype)}
    weights = {name: draw(16, dtype=dtype) for name in ("gamma", "beta", "bias")}
    inputs = [
        "x",
        "skip",
        "gamma",
        *(["beta"] if kind == "SkipLayerNormalization" else []),
        *(["bias"] if bias else []),
    ]
    weights = {name: weights[name] for name in inputs if name in weights}
    if 0 not in used:
        used = (0, 3)
    model = one_node(kind, inputs, feeds, weights, outputs=4, used=used, epsilon=1e-3)
    same(model, feeds, tolerance=TOLERANCES[dtype])


def test_a_skip_for_all_rows_and_no_beta() -> None:
    feeds = {"x": draw(2, 3, 16), "skip": draw(1, 3, 16)}
    same(one_node("SkipLayerNormalization", ["x", "skip", "g"], feeds, {"g": draw(16)}), feeds)


def test_statistics_are_refused() -> None:
    feeds = {"x": draw(2, 3, 16)}
    model = one_node(
        "SimplifiedLayerNormalization", ["x", "g"], feeds, {"g": draw(16)}, outputs=2, used=(0, 1), domain=""
    )
    with pytest.raises(UnsupportedModelError, match=r"SimplifiedLayerNormalization node 'the_node'.*deviation"):
        standard(model)


# Activations.


@pytest.mark.parametrize(
    ("kind", "inputs", "attributes"),
    [
        ("QuickGelu", ["x"], {}),
        ("QuickGelu", ["x"], {"alpha": 1.0}),
        ("Gelu", ["x"], {}),
        ("FastGelu", ["x"], {}),
        ("FastGelu", ["x", "b"], {}),
        ("BiasGelu", ["x", "b"], {}),
    ],
)
def test_activations(kind: str, inputs: list[str], attributes: dict[str, float]) -> None:
    feeds = {"x": 3 * draw(2, 5, 16)}
    weights = {"b": draw(16)} if "b" in inputs else {}
    same(one_node(kind, inputs, feeds, weights, **attributes), feeds)


def test_activations_in_half_precision_get_constants_of_their_type() -> None:
    feeds = {"x": 3 * draw(2, 5, 16, dtype=np.float16)}
    (got,) = on_ort(standard(one_node("QuickGelu", ["x"], feeds)), feeds)
    wide = feeds["x"].astype(np.float64)
    assert got.dtype == np.float16
    assert np.abs(got - wide / (1 + np.exp(-1.702 * wide))).max() < 2e-2


@pytest.mark.parametrize("limit", [0.0, 0.7])
@pytest.mark.parametrize("apart", [False, True])
def test_swiglu(apart: bool, limit: float) -> None:
    feeds = {"gate": draw(2, 8), "up": draw(2, 8)} if apart else {"gate": draw(2, 16)}
    attributes = {"activation_alpha": 1.702, "activation_beta": 1.0, "limit": limit}
    # ONNX Runtime has no kernel for the processor: the operator's text is what it is compared with.
    (got,) = on_ort(standard(one_node("SwiGLU", list(feeds), feeds, **attributes)), feeds)
    both = np.concatenate(list(feeds.values()), axis=-1).astype(np.float64)
    gate, up = np.split(both, 2, axis=-1)
    if limit:
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    assert np.abs(got - gate / (1 + np.exp(-1.702 * gate)) * (up + 1)).max() < 1e-5


# Rotations.


@pytest.mark.parametrize("position_rank", [1, 2])
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("partial", [0, 8])
def test_rotary_embedding(partial: int, interleaved: int, rank: int, position_rank: int) -> None:
    heads, size, rows = 3, 16, 20
    x = draw(2, 5, heads * size) if rank == 3 else draw(2, heads, 5, size)
    positions = np.array([4]) if position_rank == 1 else RANDOM.integers(0, rows, (2, 5))
    angles = RANDOM.random((rows, (partial or size) // 2)).astype(np.float32) * 6
    feeds = {"x": x, "p": positions}
    weights = {"cos": np.cos(angles), "sin": np.sin(angles)}
    attributes = {"interleaved": interleaved, "rotary_embedding_dim": partial, "num_heads": heads if partial else 0}
    same(one_node("RotaryEmbedding", ["x", "p", "cos", "sin"], feeds, weights, **attributes), feeds)


def test_packed_rows_are_refused() -> None:
    feeds = {"x": draw(2, 5, 32), "p": np.zeros((2, 5), np.int64)}
    weights = {"cos": draw(9, 8), "sin": draw(9, 8)}
    model = one_node("RotaryEmbedding", ["x", "p", "cos", "sin"], feeds, weights, is_packed_batching=1)
    with pytest.raises(UnsupportedModelError, match=r"RotaryEmbedding node 'the_node'.*packed together"):
        standard(model)


# Products.


@pytest.mark.parametrize("kind", ["FusedMatMul", "TransposeMatMul"])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_fused_matmul(kind: str, trans_a: int, trans_b: int, alpha: float) -> None:
    feeds = {
        "a": draw(2, 3, *((4, 5) if not trans_a else (5, 4))),
        "b": draw(2, 3, *((5, 6) if not trans_b else (6, 5))),
    }
    same(one_node(kind, ["a", "b"], feeds, transA=trans_a, transB=trans_b, alpha=alpha), feeds)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("batches", [(1, 0), (0, 1), (1, 1)])
def test_transposed_batches(batches: tuple[int, int], trans_a: int) -> None:
    """Axis 0 moves behind the batch: (4, 2, 3, 5) is a batch of 2 x 3 matrices with 4 rows."""
    a = {(0, 0): (2, 3, 4, 5), (0, 1): (2, 3, 5, 4), (1, 0): (4, 2, 3, 5), (1, 1): (5, 2, 3, 4)}[batches[0], trans_a]
    b = (5, 2, 3, 6) if batches[1] else (2, 3, 5, 6)
    feeds = {"a": draw(*a), "b": draw(*b)}
    attributes = {"transA": trans_a, "transBatchA": batches[0], "transBatchB": batches[1]}
    same(one_node("FusedMatMul", ["a", "b"], feeds, **attributes), feeds)


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Tanh", "Sigmoid"])
def test_fused_gemm(activation: str) -> None:
    feeds, weights = {"a": draw(4, 5)}, {"b": draw(6, 5), "c": draw(6)}
    attributes = {"activation": activation, "transB": 1, "alpha": 0.5, "beta": 2.0}
    if activation == "LeakyRelu":
        attributes["activation_alpha"] = 0.2
    same(one_node("FusedGemm", ["a", "b", "c"], feeds, weights, **attributes), feeds)


# Without VNNI, ONNX Runtime adds two products of uint8 and int8 in 16 bits, where larger weights saturate.
SEVEN_BITS = (-64, 64)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_dynamic_quantize_matmul(dtype: Any, by_column: bool, bias: bool) -> None:
    low, high = SEVEN_BITS if dtype is np.int8 else (0, 255)
    shape = (6,) if by_column else ()
    feeds = {"a": draw(2, 3, 16)}
    weights = {
        "b": RANDOM.integers(low, high, (16, 6)).astype(dtype),
        "s": (RANDOM.random(shape) + 0.1).astype(np.float32),
        "z": np.asarray(RANDOM.integers(low // 2, high // 2, shape), dtype),
        "c": draw(6),
    }
    inputs = ["a", "b", "s", "z", *(["c"] if bias else [])]
    weights = {name: array for name, array in weights.items() if name in inputs}
    same(one_node("DynamicQuantizeMatMul", inputs, feeds, weights), feeds)


@pytest.mark.parametrize("points", [False, True])
def test_matmul_integer_to_float(points: bool) -> None:
    feeds = {"a": RANDOM.integers(0, 255, (2, 3, 16)).astype(np.uint8)}
    weights = {
        "b": RANDOM.integers(*SEVEN_BITS, (16, 6)).astype(np.int8),
        "sa": np.float32(0.3).reshape(()),
        "sb": np.float32(0.2).reshape(()),
        "za": np.uint8(7).reshape(()),
        "zb": np.int8(-3).reshape(()),
    }
    inputs = ["a", "b", "sa", "sb", *(["za", "zb"] if points else [])]
    weights = {name: array for name, array in weights.items() if name in inputs}
    same(one_node("MatMulIntegerToFloat", inputs, feeds, weights), feeds)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16])
def test_contrib_linear_quantization(dtype: Any) -> None:
    weights = {"s": np.float32(0.04).reshape(()), "z": np.asarray(3, dtype)}
    feeds = {"x": draw(3, 4)}
    same(one_node("QuantizeLinear", ["x", "s", "z"], feeds, weights), feeds, tolerance=0)
    feeds = {"x": RANDOM.integers(0, 100, (3, 4)).astype(dtype)}
    same(one_node("DequantizeLinear", ["x", "s", "z"], feeds, weights), feeds, tolerance=1e-6)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("EPContext", "compiled for one device"),
        ("PagedAttention", "in pages"),
        ("NGramRepeatBlock", "no standard form"),
    ],
)
def test_what_has_no_standard_form_is_named(kind: str, message: str) -> None:
    feeds = {"x": draw(2, 3)}
    with pytest.raises(UnsupportedModelError, match=rf"com.microsoft.{kind} node 'the_node' .*{message}") as caught:
        standard(one_node(kind, ["x"], feeds))
    assert "ONNX Runtime backend" in caught.value.remedy
