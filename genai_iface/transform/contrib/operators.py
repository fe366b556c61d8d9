# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The contrib operators that have a standard form, by name, and the rewrite that gives it to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from genai_iface.graph._edit import Editor
from genai_iface.graph._walk import describe, op, unsupported
from genai_iface.transform.contrib.mappings.activations import bias_gelu, fast_gelu, gelu, quick_gelu, swiglu
from genai_iface.transform.contrib.mappings.experts import mixture_of_experts, quantized_mixture_of_experts
from genai_iface.transform.contrib.mappings.fused_matmul import fused_gemm, fused_matmul
from genai_iface.transform.contrib.mappings.gather_block import gather_block_quantized
from genai_iface.transform.contrib.mappings.integer_matmul import (
    dynamic_quantize_matmul,
    matmul_integer_to_float,
    plain_linear,
)
from genai_iface.transform.contrib.mappings.matmul_bnb4 import matmul_bnb4
from genai_iface.transform.contrib.mappings.matmul_nbits import matmul_nbits
from genai_iface.transform.contrib.mappings.multi_head_attention import multi_head_attention
from genai_iface.transform.contrib.mappings.norms import simplified_norm, skip_layer_norm, skip_simplified_norm
from genai_iface.transform.contrib.mappings.packed import packed_tensor
from genai_iface.transform.contrib.mappings.rotary import rotary_embedding
from genai_iface.transform.contrib.site import KEEP, Scope, Site
from genai_iface.transform.contrib.types import type_outputs
from genai_iface.transform.rewrite import Note, Rewrite

__all__ = ["ATTENTION_OPERATORS", "OPSET", "StandardOperators", "check_standard", "has_foreign_nodes"]

OPSET = 24
"""The version of the default domain that standardized graphs declare, if theirs is not newer."""

_MAPPINGS: Mapping[str, Callable[[Site], None]] = MappingProxyType(
    {
        "SimplifiedLayerNormalization": simplified_norm,
        "com.microsoft.BiasGelu": bias_gelu,
        "com.microsoft.DequantizeLinear": plain_linear,
        "com.microsoft.DynamicQuantizeMatMul": dynamic_quantize_matmul,
        "com.microsoft.FastGelu": fast_gelu,
        "com.microsoft.FusedGemm": fused_gemm,
        "com.microsoft.FusedMatMul": fused_matmul,
        "com.microsoft.GatherBlockQuantized": gather_block_quantized,
        "com.microsoft.Gelu": gelu,
        "com.microsoft.MatMulBnb4": matmul_bnb4,
        "com.microsoft.MatMulIntegerToFloat": matmul_integer_to_float,
        "com.microsoft.MatMulNBits": matmul_nbits,
        "com.microsoft.MoE": mixture_of_experts,
        "com.microsoft.MultiHeadAttention": multi_head_attention,
        "com.microsoft.QMoE": quantized_mixture_of_experts,
        "com.microsoft.QuantizeLinear": plain_linear,
        "com.microsoft.QuickGelu": quick_gelu,
        "com.microsoft.RotaryEmbedding": rotary_embedding,
        "com.microsoft.SimplifiedLayerNormalization": simplified_norm,
        "com.microsoft.SkipLayerNormalization": skip_layer_norm,
        "com.microsoft.SkipSimplifiedLayerNormalization": skip_simplified_norm,
        "com.microsoft.SwiGLU": swiglu,
        "com.microsoft.TransposeMatMul": fused_matmul,
    }
)

ATTENTION_OPERATORS = frozenset(
    name for name in _MAPPINGS if any(word in name for word in ("Attention", "LayerNormalization", "RotaryEmbedding"))
)
"""Those that ``convert --to scatter`` replaces too, so that a model keeps its packed weights."""

_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
# The standard took them over in version 27; what drives a graph takes either name.
_SAME_AS_STANDARD = frozenset({"com.microsoft.CausalConvWithState", "com.microsoft.LinearAttention"})
_REASONS = {
    "EPContext": "was compiled for one device",
    "Attention": "multiplies by packed weights of its own; export the model without that fusion",
    "PagedAttention": "keeps its cache in pages, which no standard operator does",
    "SparseAttention": "attends to blocks of a fixed pattern, which no standard operator does",
}


class StandardOperators(Rewrite):
    """Writes contrib operators in standard ones. GroupQueryAttention stays: it is replaced with its cache.

    Args:
        only: Names of the operators to replace; all that have a standard form if None.
    """

    name = "standard-operators"

    def __init__(self, only: frozenset[str] | None = None) -> None:
        super().__init__()
        self._only = only

    def rewrite(self, model: ir.Model) -> Note:
        """Replaces in place, also in subgraphs. The caller declares the opset.

        Raises:
            UnsupportedModelError: A node has no standard form; the message names it and says why.
        """
        version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        done: Counter[str] = Counter()
        for place, graph in enumerate(_graphs(model.graph)):
            prefix = "standard" if place == 0 else f"standard.{place}"
            scope = Scope(Editor(graph, prefix), max(version, OPSET), readers=_readers(graph))
            for node in list(graph):
                mapping = _MAPPINGS.get(op(node))
                if mapping is None or (self._only is not None and op(node) not in self._only):
                    type_outputs(node, version)
                    continue
                mapping(Site(node, scope))
                done[node.op_type] += 1
        RemoveUnusedNodesPass()(model)
        listed = ", ".join(f"{count} {name}" for name, count in sorted(done.items()))
        return self.said(done.total(), listed or "the graph has standard operators only")


def has_foreign_nodes(model: ir.Model) -> bool:
    """Whether the graph has a node that is not a standard operator."""
    return any(_is_foreign(node) for graph in _graphs(model.graph) for node in graph)


def check_standard(model: ir.Model) -> None:
    """Refuses a graph with nodes that no mapping replaced.

    Raises:
        UnsupportedModelError: The message names the first one.
    """
    for graph in _graphs(model.graph):
        for node in graph:
            if _is_foreign(node):
                reason = _REASONS.get(node.op_type, "has no standard form that is known here")
                raise unsupported(f"The {describe(node)} {reason}", KEEP)


def _is_foreign(node: ir.Node) -> bool:
    if op(node) in _SAME_AS_STANDARD:
        return False
    if node.domain not in _STANDARD_DOMAINS:
        return True
    return node.domain != "ai.onnx.ml" and not onnx.defs.has(node.op_type)


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and those inside its nodes."""
    yield graph
    for node in list(graph):
        for held in node.attributes.values():
            if held.type == ir.AttributeType.GRAPH:
                yield from _graphs(held.as_graph())


def _readers(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """The nodes that multiply by a packed table, by the name of its constant."""
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        if op(node) == "com.microsoft.MatMulNBits":
            packed = packed_tensor(node.inputs[1])
            if packed is not None:
                found.setdefault(str(packed.root.name), []).append(node)
    return found
