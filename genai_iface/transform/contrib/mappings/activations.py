# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Activations with a contrib operator of their own -> Sigmoid, Gelu, Add and Mul."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.transform.contrib.site import Site

__all__ = ["bias_gelu", "fast_gelu", "gelu", "gelu_of", "quick_gelu", "swiglu", "swiglu_of", "swish_of"]


def quick_gelu(site: Site) -> None:
    """X * sigmoid(alpha * X)."""
    site.give(swish_of(site, site.required(0), site.real("alpha", 1.702)))


def gelu(site: Site) -> None:
    """The exact form, by the error function."""
    site.give(gelu_of(site, site.required(0), "none"))


def bias_gelu(site: Site) -> None:
    """The exact form of A + B."""
    site.give(gelu_of(site, site.add("Add", site.required(0), site.required(1)), "none"))


def fast_gelu(site: Site) -> None:
    """The approximation by tanh, of X or X + bias."""
    x, bias = site.required(0), site.input(1)
    site.give(gelu_of(site, x if bias is None else site.add("Add", x, bias), "tanh"))


def swiglu(site: Site) -> None:
    """Clamped SwiGLU of gate and up, or of both halves of one tensor."""
    gate, up = site.required(0), site.input(1)
    if site.integer("round_activation"):
        raise site.refuse("rounds in the middle (round_activation)")
    if up is None:
        gate, up = site.several("Split", 2, gate, axis=-1, num_outputs=2)
    limit = site.real("limit")
    site.give(
        swiglu_of(
            site,
            gate,
            up,
            alpha=site.real("activation_alpha", 1.0),
            beta=site.real("activation_beta"),
            limit=limit if limit > 0 else None,
        )
    )


def swish_of(site: Site, x: ir.Value, alpha: float) -> ir.Value:
    """X * sigmoid(alpha * x)."""
    inner = x if alpha == 1.0 else site.add("Mul", x, site.scalar(alpha, x))
    return site.add("Mul", x, site.add("Sigmoid", inner))


def gelu_of(site: Site, x: ir.Value, approximate: str) -> ir.Value:
    """Gelu of opset 20."""
    return site.add("Gelu", x, approximate=approximate)


def swiglu_of(site: Site, gate: ir.Value, up: ir.Value, *, alpha: float, beta: float, limit: float | None) -> ir.Value:
    """min(gate, limit) * sigmoid(alpha * min(gate, limit)) * (clip(up, -limit, limit) + beta)."""
    if limit is not None:
        gate = site.add("Min", gate, site.scalar(limit, gate))
        up = site.add("Clip", up, site.scalar(-limit, up), site.scalar(limit, up))
    if beta:
        up = site.add("Add", up, site.scalar(beta, up))
    return site.add("Mul", swish_of(site, gate, alpha), up)
