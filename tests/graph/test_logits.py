# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Logits come from a product with a vocabulary; hidden states and scores are refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai_iface.errors import UnsupportedModelError
from genai_iface.graph._logits import check_vocabulary, find_logits

SHAPES = {"head": (8, 20), "down": (8, 8), "norm": (8,), "bias": (20,), "cap": (), "table": (20, 8), "scale": ()}
SHAPES |= {"left": (8, 2), "right": (2, 20), "whole": (8, 20), "zero": ()}
TYPES = {"whole": np.int8, "zero": np.int8}
DOMAINS = '"": 24, "com.microsoft": 1'

LOGITS = {
    "product": "logits = MatMul(h, head)",
    "bias": "p = MatMul(h, head) logits = Add(p, bias)",
    "softcap": "p = MatMul(h, head) q = Div(p, cap) t = Tanh(q) logits = Mul(t, cap)",
    "gemm": "logits = Gemm<transB=1>(h, table)",
    "tied": "t = Transpose<perm=[1, 0]>(table) logits = MatMul(h, t)",
    "integers": """q, s, z = DynamicQuantizeLinear(h) i = MatMulInteger(q, whole, z, zero) f = Cast<to=1>(i)
        m = Mul(s, scale) logits = Mul(f, m)""",
    "an adapter beside the head": """p = MatMul(h, head) a = MatMul(h, left) b = MatMul(a, right) c = Mul(b, cap)
        logits = Add(p, c)""",
    "cast": "p = MatMul(h, head) logits = Cast<to=1>(p)",
}
HIDDEN = {
    "norm": ("logits = RMSNormalization(h, norm)", "a normalization"),
    "skip norm": (
        "logits = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.1>(h, h, norm)",
        "SkipSimplifiedLayerNormalization",
    ),
    "cast norm": ("n = LayerNormalization(h, norm) logits = Cast<to=1>(n)", "a normalization"),
    "written out": (
        """two = Constant<value_float=2.0>() s = Pow(h, two) m = ReduceMean(s) r = Sqrt(m) i = Reciprocal(r)
        n = Mul(h, i) logits = Mul(n, norm)""",
        "a normalization",
    ),
    "residual": ("d = MatMul(h, down) r = RMSNormalization(h, norm) logits = Add(r, d)", "a residual connection"),
    "table": ("logits = Gather(table, ids)", "rows of a table"),
}


def graph_of(text: str) -> ir.Graph:
    model = onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: [{DOMAINS}]> g (float[B, S, 8] x, int64[B, S] ids) => (float[B, S, V] logits) "
        f"{{ h = Softplus(x) {text} }}"
    )
    for name, shape in SHAPES.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, TYPES.get(name, np.float32)), name))
    return ir.from_proto(model).graph


@pytest.mark.parametrize("name", LOGITS)
def test_logits(name: str) -> None:
    assert find_logits(graph_of(LOGITS[name]), set()).name == "logits"


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_states(name: str) -> None:
    text, words = HIDDEN[name]
    with pytest.raises(UnsupportedModelError, match=f"holds hidden states, not logits: .*{words}") as caught:
        find_logits(graph_of(text), set())
    assert "language-model head" in caught.value.remedy


@pytest.mark.parametrize(
    ("columns", "words"), [(64, "as many as the token table of 1000 rows is wide"), (5, "it holds scores")]
)
def test_columns_that_are_no_vocabulary(columns: int, words: str) -> None:
    logits = ir.Value(name="logits")
    with pytest.raises(UnsupportedModelError, match=words):
        check_vocabulary(logits, columns, 1000, 64)


@pytest.mark.parametrize(
    ("columns", "rows", "width"), [(1000, 1000, 64), (960, 1000, 64), (1024, 1000, 64), (5, None, None)]
)
def test_vocabularies(columns: int, rows: int | None, width: int | None) -> None:
    """Padded, with tokens that are only read, or of a table that is not known."""
    check_vocabulary(ir.Value(name="logits"), columns, rows, width)
