# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One row of the report: what an export has, what it misses and why, and the same after the rules of this project."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir

from genai_iface.build.fusion.cases import Case
from genai_iface.build.fusion.expected import Expected
from genai_iface.build.fusion.findings import Finding, kind_of_miss, look
from genai_iface.build.fusion.rejections import nodes_by_module, rejection, text_of
from genai_iface.build.fusion.runs import outcome, read_arrays
from genai_iface.build.methods.fuse_standard import fuse_standard

__all__ = ["OPERATORS", "analyse"]

OPERATORS = ("RMSNormalization", "RotaryEmbedding", "Attention", "LayerNormalization")


def analyse(case: Case, exported: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Makes a row.

    Args:
        case: The family, opset, dtype and form to analyse.
        exported: What its export left.
        folder: Where its files are.

    Returns:
        What the JSON report holds for it.
    """
    row: dict[str, Any] = {
        "family": case.family,
        "opset": case.opset,
        "dtype": case.dtype,
        "form": case.form,
        "error": exported["error"],
        "expected": None,
        "findings": [],
        "misses": [],
    }
    expected = Expected.from_dict(exported["expected"]) if exported["expected"] else None
    if expected is not None:
        row["expected"] = expected.counts()
    if exported["error"] is not None or expected is None:
        row["findings"] = [Finding("export-failed", str(exported["error"])).as_dict()]
        return row

    def load() -> ir.Model:
        return ir.load(folder / f"{case.name}.onnx")

    inputs, outputs = read_arrays(folder / f"{case.name}.npz")
    model = load()
    result = outcome(model, inputs, outputs["logits"])
    row |= {"declared_opset": model.opset_imports.get(""), "default": {**_state(model), **result.as_dict()}}
    row["misses"] = _misses(load, expected)
    findings = look(load, expected, case.opset, result, (inputs, outputs["logits"]))
    kinds = {finding.kind for finding in findings}
    explained = kinds & {"norm-types", "rotary-batch", "opset-not-reached"}
    if not result.agrees(case.dtype) and not explained:
        kind = "wrong-numbers" if result.error is not None and result.checker is None else "rejected"
        said = result.checker or result.runtime or f"relative error {result.error}"
        findings.append(Finding(kind, said))
    for kind in dict.fromkeys(miss["kind"] for miss in row["misses"]):
        if kind not in kinds:
            first = next(miss for miss in row["misses"] if miss["kind"] == kind)
            findings.append(Finding(kind, f"{first['module']}: {first['why']}"))
    row["findings"] = [finding.as_dict() for finding in findings]
    if model.opset_imports.get("", 0) >= 23:
        ours = load()
        notes = fuse_standard(ours)
        after = outcome(ours, inputs, outputs["logits"])
        row["after"] = {**_state(ours), **after.as_dict(), "notes": [str(note) for note in notes]}
    return row


def _state(model: ir.Model) -> dict[str, Any]:
    counts = Counter(node.op_type for node in model.graph)
    return {"found": {name: counts[name] for name in OPERATORS}, "nodes": sum(counts.values())}


def _misses(load: Any, expected: Expected) -> list[dict[str, Any]]:
    """The first place of each kind where a norm or a rotation was left written out, with the rule that came nearest."""
    from onnxscript.rewriter.rules.fusion import _rms_normalization, _rotary_embedding

    model = load()
    modules = nodes_by_module(model.graph)
    misses: dict[str, dict[str, Any]] = {}
    places = (
        ("RMSNormalization", [norm.path for norm in expected.rms_norms], _rms_normalization.rms_normalization_rules),
        ("RotaryEmbedding", expected.rotations, list(_rotary_embedding.rotary_embedding_rules)),
    )
    for operator, paths, rules in places:
        for path, count in Counter(paths).items():
            nodes = modules.get(f"inner.{path}" if path else "inner", [])
            missing = count - sum(node.op_type == operator for node in nodes)
            if missing <= 0:
                continue
            near = rejection(model, rules, nodes)
            kind = kind_of_miss(operator, near, [text_of(node) for node in nodes])
            if (known := misses.get(f"{operator} {kind}")) is not None:
                known["count"] += missing
                continue
            misses[f"{operator} {kind}"] = {
                "operator": operator,
                "kind": kind,
                "module": path,
                "count": missing,
                "why": "no rule matched a single node" if near is None else _why(near.rule, near.status, near.reason),
                "rejection": None if near is None else near.as_dict(),
            }
    return list(misses.values())


def _why(rule: str, status: str, reason: str) -> str:
    if status == "SUCCESS":
        return f"{rule} would fire here"
    where = "its check" if status == "CONDITION_FAILED" else "its pattern"
    return f"{rule}, {where}: {reason}"
