# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an exported graph, found by trying: each finding names the experiment that shows it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.build.fusion.expected import Expected
from genai_iface.build.fusion.rejections import Rejection, nodes_by_module, rejection, text_of
from genai_iface.build.fusion.runs import Outcome, outcome

__all__ = ["KINDS", "Finding", "kind_of_miss", "look"]

# Every kind of finding, with what it means. Reports and bug reports are ordered like this.
KINDS: dict[str, str] = {
    "opset-gate": "the default fusions run at opset 23 only; at any other they would fire and aren't called",
    "rotary-cast": "a Cast between cos or sin and the product (float16) stops the rotary rule",
    "rotary-scale": "a constant factor on cos and sin (yarn, longrope) stops the rotary rule",
    "rotary-interleaved": "pairs next to each other (repeat_interleave, stack) are in no rotary rule",
    "rotary-half-form": "factors of half the size (x0 cos - x1 sin, x1 cos + x0 sin) are in no rotary rule",
    "rotary-layout": "heads on axis 2 are rejected by the rotary rule",
    "rotary-batch": "cos and sin of batch 1 go into RotaryEmbedding, which fails on a second row",
    "partial-rotary": "the partial-rotary rule exists and would fire, and isn't called",
    "gqa-axes": "the GQA rule expects a scalar axis of Unsqueeze, where the exporter writes [2]",
    "norm-types": "RMSNormalization with a float16 input and a float32 weight, which checker or runtime reject",
    "epsilon-deleted": "an epsilon of 1e-8 is deleted as if it were 0",
    "norm-pow": "Pow(x, -0.5) instead of Reciprocal(Sqrt(x)) stops the norm rule",
    "layer-norm": "a written-out LayerNorm does not become LayerNormalization; the rule for it isn't called",
    "factors-repeated": "each fused RotaryEmbedding comes with a Cos and a Sin of its own",
    "opset-not-reached": "the model declares another opset than the one asked for",
    "attention-written-out": "attention is exported as MatMul and Softmax",
    "export-failed": "the exporter fails",
    "wrong-numbers": "the graph runs and gives other numbers than torch",
    "rejected": "the checker or ONNX Runtime rejects the graph",
    "unexplained": "a miss of none of these kinds",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with an exported graph.

    Attributes:
        kind: One of :data:`KINDS`.
        evidence: What was tried, and what happened.
    """

    kind: str
    evidence: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def kind_of_miss(operator: str, found: Rejection | None, site: Sequence[str] = ()) -> str:
    """The kind of a missed norm or rotation, from where the nearest rule stopped, and the nodes of the place."""
    if found is None:
        return "unexplained"
    if found.status == "SUCCESS":
        return "opset-gate"
    stopped = re.search(r" = (\w+)\(", found.at)
    at = stopped[1] if stopped else ""
    if operator == "RMSNormalization":
        if (at == "Pow" and "-0.5" in found.at) or any("Pow(" in node and "-0.5" in node for node in site):
            return "norm-pow"
        return "epsilon-deleted" if "expected Add, got ReduceMean" in found.reason else "unexplained"
    if found.status == "CONDITION_FAILED":
        return "rotary-layout" if "Unsqueeze" in found.reason else "unexplained"
    kinds = {
        "Cast": "rotary-cast",
        "Mul": "rotary-scale",
        "Reshape": "rotary-interleaved",
        "Slice": "rotary-half-form",
        "Split": "rotary-half-form",
    }
    return kinds.get(at, "unexplained")


def look(
    load: Callable[[], ir.Model],
    expected: Expected,
    requested_opset: int,
    result: Outcome,
    arrays: tuple[dict[str, NDArray[Any]], NDArray[Any]],
) -> list[Finding]:
    """Every finding about a graph as a whole; misses of single places are classified by :func:`kind_of_miss`.

    Args:
        load: Reads the graph anew: each experiment changes its own copy.
        expected: What the torch model does.
        requested_opset: The opset that was asked for.
        result: What checker and runtime said.
        arrays: The inputs of the case, and torch's logits.
    """
    model = load()
    found = [
        _opset(model, requested_opset),
        _gate(load()),
        _partial(load()),
        _gqa(load()),
        _types(model, result),
        _epsilon(model, expected),
        _factors(model),
        _layer_norm(model, load(), expected),
        _attention(model, expected),
        _batch(model, result, arrays),
    ]
    return [finding for finding in found if finding is not None]


def _opset(model: ir.Model, requested: int) -> Finding | None:
    declared = model.opset_imports.get("", 0)
    if declared == requested:
        return None
    later = sorted({node.op_type for node in model.graph if node.op_type in ("Attention", "RMSNormalization")})
    more = f", and holds {', '.join(later)}, of opset 23" if later and declared < 23 else ""
    return Finding("opset-not-reached", f"asked for opset {requested}, the model declares {declared}{more}")


def _gate(model: ir.Model) -> Finding | None:
    from onnxscript.rewriter.onnx_fusions import _onnx_fusions

    opset = model.opset_imports.get("", 0)
    if opset == 23:
        return None
    counts = {name: count for name, count in _onnx_fusions._opset_23_fuse(model).items() if count}
    if not counts:
        return None
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    return Finding("opset-gate", f"at opset {opset}, _opset_23_fuse called by hand fuses {said}; fuse() does nothing")


def _partial(model: ir.Model) -> Finding | None:
    from onnxscript.rewriter.onnx_fusions import _onnx_fusions
    from onnxscript.rewriter.rules.fusion import _rotary_embedding

    _onnx_fusions._opset_23_fuse(model)
    count = _rotary_embedding.fuse_partial_rotary_embedding(model)
    if not count:
        return None
    return Finding("partial-rotary", f"fuse_partial_rotary_embedding called by hand fuses {count}; nothing calls it")


def _gqa(model: ir.Model) -> Finding | None:
    from onnxscript.rewriter.rules.fusion import _gqa as rule

    def nearest() -> Rejection | None:
        attentions = [node for node in model.graph if node.op_type == "Attention"]
        return rejection(model, list(rule.gqa_rules), attentions)

    if rule.fuse_gqa(model):
        return None
    first = nearest()
    if first is None or "Unsqueeze" not in first.operators or "is not a scalar" not in first.reason:
        return None
    for node in model.graph:
        axes = node.inputs[1].const_value if node.op_type == "Unsqueeze" and node.inputs[1] is not None else None
        if axes is not None and tuple(axes.shape) == (1,):
            scalar = ir.Value(name=f"{node.name}.axis", const_value=ir.Tensor(axes.numpy().reshape(())))
            scalar.type, scalar.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([])
            model.graph.register_initializer(scalar)
            node.replace_input_with(1, scalar)
    count, second = rule.fuse_gqa(model), nearest()
    then = "" if count or second is None else f", stopped by: {second.reason}"
    return Finding(
        "gqa-axes", f"fuse_gqa fuses 0: {first.reason} With the axes of Unsqueeze as scalars it fuses {count}{then}"
    )


def _types(model: ir.Model, result: Outcome) -> Finding | None:
    mixed = [
        node
        for node in model.graph
        if node.op_type == "RMSNormalization"
        and node.inputs[0] is not None
        and node.inputs[1] is not None
        and node.inputs[0].dtype != node.inputs[1].dtype
    ]
    if not mixed:
        return None
    said = result.checker or result.runtime or "both checker and runtime take it"
    return Finding("norm-types", f"{len(mixed)} nodes, first {text_of(mixed[0])}; {said}")


def _epsilon(model: ir.Model, expected: Expected) -> Finding | None:
    modules = nodes_by_module(model.graph)
    for norm in expected.rms_norms:
        nodes = modules.get(f"inner.{norm.path}", [])
        means = [node.outputs[0] for node in nodes if node.op_type == "ReduceMean"]
        bare = [mean for mean in means if any(use.node.op_type == "Sqrt" for use in mean.uses())]
        if norm.epsilon > 0 and bare:
            kept = _sum_is_kept(norm.epsilon)
            return Finding(
                "epsilon-deleted",
                f"{norm.path} has epsilon {norm.epsilon:g}, its graph none; onnxscript's optimizer "
                f"{'keeps' if kept else 'deletes'} the Add in a model that is only x + {norm.epsilon:g}",
            )
    return None


def _sum_is_kept(epsilon: float) -> bool:
    """Whether the optimizer leaves x + epsilon as it is."""
    from onnxscript import optimizer

    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    constant = ir.Value(name="epsilon", const_value=ir.Tensor(np.array(epsilon, np.float32)))
    constant.type, constant.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    add = ir.node("Add", [x, constant])
    graph = ir.Graph([x], add.outputs, nodes=[add], initializers=[constant], opset_imports={"": 23}, name="sum")
    model = ir.Model(graph, ir_version=10)
    optimizer.optimize_ir(model)
    return any(node.op_type == "Add" for node in model.graph)


def _factors(model: ir.Model) -> Finding | None:
    # As many Cos nodes that read one value as there are fused nodes.
    reads = Counter(id(node.inputs[0]) for node in model.graph if node.op_type == "Cos")
    more = sum(count - 1 for count in reads.values())
    return Finding("factors-repeated", f"{more} Cos nodes compute what another one does") if more else None


def _layer_norm(model: ir.Model, copy: ir.Model, expected: Expected) -> Finding | None:
    from onnxscript.rewriter.rules.fusion import _layer_norm as rule

    count = sum(node.op_type == "LayerNormalization" for node in model.graph)
    if count >= len(expected.layer_norms):
        return None
    fused = rule.fuse_layer_normalization(copy)
    norms = [node.inputs[0].producer() for node in model.graph if node.op_type == "RMSNormalization" and node.inputs[0]]
    halves = sum(node is not None and node.op_type == "Sub" for node in norms)
    return Finding(
        "layer-norm",
        f"{len(expected.layer_norms)} layer norms ran, the graph has {count} LayerNormalization and {halves} "
        f"RMSNormalization of a difference; fuse_layer_normalization called by hand on it fuses {fused}",
    )


def _attention(model: ir.Model, expected: Expected) -> Finding | None:
    count = sum(node.op_type == "Attention" for node in model.graph)
    if count >= len(expected.attentions):
        return None
    modules = nodes_by_module(model.graph)
    softmax = sum(
        any(node.op_type == "Softmax" for node in modules.get(f"inner.{module.path}", []))
        for module in expected.attentions
    )
    return Finding(
        "attention-written-out",
        f"{len(expected.attentions)} attentions ran, the graph has {count} Attention; {softmax} have a Softmax",
    )


def _batch(model: ir.Model, result: Outcome, arrays: tuple[dict[str, NDArray[Any]], NDArray[Any]]) -> Finding | None:
    if result.runtime is None or not any(node.op_type == "RotaryEmbedding" for node in model.graph):
        return None
    inputs, logits = arrays
    one = outcome(model, {name: array[:1] for name, array in inputs.items()}, logits[:1])
    if one.runtime is not None:
        return None
    rows = len(logits)
    return Finding("rotary-batch", f"1 row: runs, error {one.error:.1e}; {rows} rows: {result.runtime}")
