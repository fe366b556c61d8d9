# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Norms of one operator with the sum before them -> Add and RMSNormalization or LayerNormalization."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.transform.contrib.site import Site

__all__ = ["simplified_norm", "skip_layer_norm", "skip_simplified_norm"]

_STATISTICS = "the mean or the inverse standard deviation"


def simplified_norm(site: Site) -> None:
    """SimplifiedLayerNormalization(X, scale), which ONNX Runtime keeps in the default domain too."""
    site.no_output(1, what=_STATISTICS)
    attributes = {"axis": site.integer("axis", -1), "epsilon": site.real("epsilon", 1e-5)}
    site.give(site.add("RMSNormalization", site.required(0), site.required(1), **attributes))


def skip_simplified_norm(site: Site) -> None:
    """SkipSimplifiedLayerNormalization(input, skip, gamma, bias), whose output 3 is the sum."""
    total = _sum(site, site.input(3))
    site.give(site.add("RMSNormalization", total, site.required(2), axis=-1, epsilon=_epsilon(site)))


def skip_layer_norm(site: Site) -> None:
    """SkipLayerNormalization(input, skip, gamma, beta, bias), whose output 3 is the sum."""
    total = _sum(site, site.input(4))
    inputs = (total, site.required(2), site.input(3))
    site.give(site.add("LayerNormalization", *inputs, axis=-1, epsilon=_epsilon(site)))


def _sum(site: Site, bias: ir.Value | None) -> ir.Value:
    site.no_output(1, 2, what=_STATISTICS)
    total = site.add("Add", site.required(0), site.required(1))
    if bias is not None:
        total = site.add("Add", total, bias)
    if site.output(3) is not None:
        site.give(total, 3)
    return total


def _epsilon(site: Site) -> float:
    return site.real("epsilon", 1e-12)
