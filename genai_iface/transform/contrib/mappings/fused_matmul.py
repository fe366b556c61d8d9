# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Products fused with transposition, a factor, a bias or an activation -> MatMul or Gemm and what was fused."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.transform.contrib.site import Site

__all__ = ["fused_gemm", "fused_matmul"]

_ACTIVATIONS = {"Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",), "Elu": ("alpha",), "Softplus": ()}


def fused_matmul(site: Site) -> None:
    """Alpha * A' @ B', either transposed in its last two axes or with its first axis moved behind the batch."""
    a = _turned(site, site.required(0), site.integer("transA"), site.integer("transBatchA"))
    b = _turned(site, site.required(1), site.integer("transB"), site.integer("transBatchB"))
    result = site.add("MatMul", a, b)
    alpha = site.real("alpha", 1.0)
    if alpha != 1.0:
        result = site.add("Mul", result, site.scalar(alpha, result))
    site.give(result)


def fused_gemm(site: Site) -> None:
    """Gemm, then an activation."""
    kind = site.text("activation")
    if kind not in _ACTIVATIONS:
        raise site.refuse(f"has the activation {kind!r}, expected one of {', '.join(_ACTIVATIONS)}")
    attributes = {"alpha": site.real("alpha", 1.0), "beta": site.real("beta", 1.0)}
    turns = {name: site.integer(name) for name in ("transA", "transB") if site.integer(name)}
    result = site.add("Gemm", site.required(0), site.required(1), site.input(2), **attributes, **turns)
    extras = {
        name: site.real(f"activation_{name}", 0.01 if kind == "LeakyRelu" else 1.0) for name in _ACTIVATIONS[kind]
    }
    site.give(site.add(kind, result, **extras))


def _turned(site: Site, x: ir.Value, last: int, batch: int) -> ir.Value:
    if not last and not batch:
        return x
    axes = site.rank(x)
    if axes < 2:
        # A vector has nothing to transpose.
        return x
    order = list(range(axes))
    if batch:
        order = [*order[1:-1], 0, order[-1]]
    if last:
        order[-2:] = order[-2:][::-1]
    return site.add("Transpose", x, perm=order) if order != list(range(axes)) else x
