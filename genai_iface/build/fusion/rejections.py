# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Which condition of which onnxscript rule rejected a place: asked of the library's own matching tracer."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

__all__ = ["Rejection", "nodes_by_module", "rejection", "text_of"]

_LINES = 14


@dataclass(frozen=True, slots=True)
class Rejection:
    """How near the nearest rule came.

    Attributes:
        rule: Name of the rule.
        status: "NO_MATCH", "CONDITION_FAILED", "REPLACEMENT_FAILED", or "SUCCESS" if the rule would fire here.
        reason: The rule's own words.
        at: The node (operator and output) where it failed, "" if the rule does not say.
        nodes: The subgraph it had matched, with that node, as text, one node a line.
        operators: The operators of those nodes.
    """

    rule: str
    status: str
    reason: str
    at: str
    nodes: tuple[str, ...]
    operators: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def nodes_by_module(graph: ir.Graph) -> dict[str, list[ir.Node]]:
    """The nodes of each torch module, by its path in the exported module, as the exporter's metadata has it."""
    found: dict[str, list[ir.Node]] = {}
    for node in graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
        if scopes:
            names = ast.literal_eval(scopes)
            found.setdefault(names[-2] if len(names) > 1 else "", []).append(node)
    return found


def rejection(model: ir.Model, rules: Iterable[Any], nodes: Sequence[ir.Node]) -> Rejection | None:
    """Tries the rules at each node and returns the attempt that came nearest.

    Args:
        model: The model; a successful attempt leaves unused nodes in it, so pass one that is not needed again.
        rules: Rewrite rules of onnxscript.
        nodes: Where a rule could end: the candidates for the last node of the pattern.

    Returns:
        None if no rule matched even one node.
    """
    from onnxscript.rewriter._basics import MatchingTracer  # the tracer has no public name

    nearest, by_rule = None, None
    for rule in rules:
        tracer = MatchingTracer()
        for node in nodes:
            rule.try_rewrite(model, model.graph, node, tracer=tracer)
        for infos in tracer.best_matches_map.values():
            if infos and (nearest is None or infos[0].score() > nearest.score()):
                nearest, by_rule = infos[-1], rule  # of equals the one furthest down
    if nearest is None:
        return None
    causes = [cause for cause in nearest.match_result.failure_nodes_and_values if cause is not None]
    producers = [cause if isinstance(cause, ir.Node) else cause.producer() for cause in causes]
    failed = next((node for node in producers if node is not None), None)
    matched = {*nearest.match_result.nodes, *([failed] if failed is not None else [])}
    ordered = [node for node in model.graph if node in matched][:_LINES]
    return Rejection(
        rule=str(by_rule.name if by_rule is not None else ""),
        status=nearest.status.name,
        reason=str(nearest.match_result.reason) or "the rule gives no reason",
        at="" if failed is None else text_of(failed),
        nodes=tuple(text_of(node) for node in ordered),
        operators=tuple(node.op_type for node in ordered),
    )


def text_of(node: ir.Node) -> str:
    """A node in one line."""
    inputs = ", ".join("" if value is None else _value(value) for value in node.inputs)
    shown = {name: attribute.value for name, attribute in node.attributes.items() if name in ("axis", "to", "perm")}
    more = "".join(f", {name}={value}" for name, value in shown.items())
    return f"{', '.join(_typed(value) for value in node.outputs)} = {node.op_type}({inputs}{more})"


def _value(value: ir.Value) -> str:
    tensor = value.const_value
    if tensor is not None and tensor.size <= 4:
        return str(tensor.numpy().tolist()).replace(str(2**63 - 1), "INT64_MAX")
    return str(value.name)


def _typed(value: ir.Value) -> str:
    dtype = "" if value.dtype is None else f":{value.dtype.short_name()}"
    dims = "" if value.shape is None else "[" + ",".join(str(_dim(size)) for size in value.shape) + "]"
    return f"{value.name}{dtype}{dims}"


def _dim(size: int | ir.SymbolicDim) -> int | str:
    return size if isinstance(size, int) else size.value or "?"
