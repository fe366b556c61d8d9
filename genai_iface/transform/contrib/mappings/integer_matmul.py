# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Products of 8-bit integers with their scales in one operator -> MatMulInteger, Cast and Mul."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.transform.contrib.site import Site

__all__ = ["dynamic_quantize_matmul", "matmul_integer_to_float", "plain_linear"]


def dynamic_quantize_matmul(site: Site) -> None:
    """(A, B, b_scale, b_zero_point, bias): A is quantized in each step."""
    integers, scale, zero = site.several("DynamicQuantizeLinear", 3, site.required(0))
    scale.dtype = ir.DataType.FLOAT
    inputs = (integers, site.required(1), zero, site.input(3))
    _scaled(site, inputs, scale, site.required(2), site.input(4))


def matmul_integer_to_float(site: Site) -> None:
    """(A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias)."""
    inputs = (site.required(0), site.required(1), site.input(4), site.input(5))
    _scaled(site, inputs, site.required(2), site.required(3), site.input(6))


def plain_linear(site: Site) -> None:
    """QuantizeLinear or DequantizeLinear of the contrib domain, where the same types came earlier."""
    attributes = {"axis": site.integer("axis", 1)} if "axis" in site.node.attributes else {}
    inputs = [site.input(index) for index in range(3)]
    site.give(site.add(site.node.op_type, *inputs, **attributes))


def _scaled(
    site: Site, inputs: tuple[ir.Value | None, ...], one: ir.Value, other: ir.Value, bias: ir.Value | None
) -> None:
    total = site.add("MatMulInteger", *inputs)
    dtype = site.float_type(other)
    scale = site.add("Mul", one, other)
    result = site.add("Mul", site.add("Cast", total, to=int(dtype)), scale)
    site.give(result if bias is None else site.add("Add", result, bias))
