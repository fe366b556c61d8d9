# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0

"""MoE and QMoE against ONNX Runtime's kernels, and what has none there is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from genai_iface.errors import UnsupportedModelError
from tests.transform.contrib.one_node import one_node, same, standard
from tests.transform.contrib.test_weights import packed

EXPERTS, HIDDEN, INNER, TOKENS = 5, 32, 64, 6
RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> NDArray[np.float32]:
    return (0.5 * RANDOM.standard_normal(shape)).astype(np.float32)


def given(*, rows: bool = False) -> dict[str, NDArray[Any]]:
    x = draw(2, TOKENS // 2, HIDDEN) if rows else draw(TOKENS, HIDDEN)
    return {"x": x, "router": 3 * draw(TOKENS, EXPERTS)}


SWIGLU = {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0}
KINDS: list[dict[str, Any]] = [
    {"activation_type": "relu"},
    {"activation_type": "gelu"},
    {"activation_type": "silu"},
    {"activation_type": "identity"},
    {"activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": 1.702, "activation_beta": 1.0},
    {
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.702,
        "activation_beta": 1.0,
        "swiglu_limit": 0.5,
    },
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("count", "normalize"), [(1, 0), (2, 0), (2, 1)])
def test_mixture_of_experts(kind: dict[str, Any], bias: bool, count: int, normalize: int) -> None:
    feeds = given(rows=bias)
    wide = INNER * (2 if kind["activation_type"] == "swiglu" else 1)
    weights = {"w1": draw(EXPERTS, wide, HIDDEN), "w2": draw(EXPERTS, HIDDEN, INNER)}
    names = ["x", "router", "w1", "", "w2"]
    if bias:
        weights |= {"b1": draw(EXPERTS, wide), "b2": draw(EXPERTS, HIDDEN)}
        names = ["x", "router", "w1", "b1", "w2", "b2"]
    same(one_node("MoE", names, feeds, weights, k=count, normalize_routing_weights=normalize, **kind), feeds)


def quantized(
    bits: int, block: int, *, points: bool = False, bias: bool = False, weights_given: bool = False, **kind: Any
) -> tuple[ir.Model, dict[str, NDArray[Any]]]:
    feeds = given()
    wide = INNER * (2 if kind["activation_type"] == "swiglu" else 1)
    names = ["x", "router", *[""] * 13]
    weights: dict[str, NDArray[Any]] = {}
    for slot, columns, rows in ((2, wide, HIDDEN), (5, HIDDEN, INNER)):
        blocks = rows // block if block else 1
        weights[f"w{slot}"] = packed(RANDOM.integers(0, 2**bits, (EXPERTS, columns, rows)).astype(np.uint8), bits)
        scales = (RANDOM.random((EXPERTS, columns, blocks)) * 0.05 + 0.01).astype(np.float32)
        weights[f"s{slot}"] = scales if block else scales[..., 0]
        names[slot], names[slot + 1] = f"w{slot}", f"s{slot}"
        if bias:
            names[slot + 2], weights[f"b{slot}"] = f"b{slot}", draw(EXPERTS, columns)
        if points:
            zeros = RANDOM.integers(0, 2**bits, (EXPERTS, columns, blocks)).astype(np.uint8)
            place = 11 if slot == 2 else 12
            names[place] = f"z{slot}"
            weights[f"z{slot}"] = packed(zeros if block else zeros[..., 0], bits)
    if weights_given:
        names[14] = "given"
        feeds["given"] = RANDOM.random((TOKENS, EXPERTS)).astype(np.float32)
    while not names[-1]:
        names.pop()
    attributes = {"expert_weight_bits": bits, "k": 2, **kind}
    if block:
        attributes["block_size"] = block
    return one_node("QMoE", names, feeds, weights, **attributes), feeds


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize(("bits", "block"), [(4, 0), (4, 16), (4, 32), (8, 0)])
@pytest.mark.parametrize("bias", [False, True])
def test_quantized_experts(bits: int, block: int, points: bool, bias: bool) -> None:
    model, feeds = quantized(bits, block, points=points, bias=bias, normalize_routing_weights=1, **SWIGLU)
    same(model, feeds, tolerance=5e-5)


@pytest.mark.parametrize(
    "kind", [{"activation_type": "silu"}, {"activation_type": "relu"}, SWIGLU | {"swiglu_limit": 0.5}]
)
def test_activations_of_quantized_experts(kind: dict[str, Any]) -> None:
    model, feeds = quantized(4, 32, normalize_routing_weights=1, **kind)
    same(model, feeds, tolerance=5e-5)


@pytest.mark.parametrize("normalize", [0, 1])
def test_weights_of_the_routers_choice(normalize: int) -> None:
    model, feeds = quantized(4, 32, weights_given=True, normalize_routing_weights=normalize, **SWIGLU)
    same(model, feeds, tolerance=5e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize_routing_weights": 0}, "normalizes them all the same"),
        ({"use_sparse_mixer": 1}, "sparse mixer"),
        ({"swiglu_fusion": 0}, "matrices of their own"),
        ({"weights_prepacked": 1}, "layout of one device"),
        ({"expert_weight_bits": 3}, "weights of 3 bits"),
        ({"quant_type": "fp4"}, "of the type 'fp4'"),
        ({"activation_type": "geglu"}, "activation 'geglu'"),
    ],
)
def test_experts_that_are_refused(change: dict[str, Any], message: str) -> None:
    model, _ = quantized(4, 32, normalize_routing_weights=1, **SWIGLU)
    for name, value in change.items():
        attribute = ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64(name, value)
        model.graph[0].attributes[name] = attribute
    with pytest.raises(UnsupportedModelError, match=rf"QMoE node 'the_node'.*{message}"):
        standard(model)


def test_an_expert_that_was_not_chosen_may_overflow() -> None:
    feeds = given()
    feeds["router"][:, 0] = -100
    weights = {"w1": draw(EXPERTS, INNER, HIDDEN), "w2": draw(EXPERTS, HIDDEN, INNER)}
    for name in ("w1", "w2"):
        weights[name][0] *= 1e30
    same(one_node("MoE", ["x", "router", "w1", "", "w2"], feeds, weights, k=2, activation_type="relu"), feeds)
