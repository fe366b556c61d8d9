# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""One family by one method in one type: built, and compared with torch on two backends."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from genai_iface import load_model
from genai_iface.build._build import BuildOptions, Method, build
from genai_iface.build._families import make_checkpoint
from genai_iface.build._verify import compare
from genai_iface.errors import GenAIError
from genai_iface.types import DType

__all__ = ["REWRITES", "Outcome", "lowered_by_ort", "run_case"]

REWRITES = ("group-query-attention", "skip-norm", "states")

_COUNTED = (
    "Attention",
    "TensorScatter",
    "RMSNormalization",
    "LayerNormalization",
    "RotaryEmbedding",
    "CausalConvWithState",
    "LinearAttention",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case.

    Attributes:
        family, method, dtype: What was built, how, and in which type.
        verified: Whether a folder came out that agrees with torch on the reference backend.
        problem: The error if it failed, else empty.
        difference: Largest difference of a logit by backend, as a part of the largest logit.
        equal_tokens: Steps with torch's greedy token, by backend.
        steps: The number of steps whose logits were compared.
        ort_problem: Why ONNX Runtime did not agree; empty if it did.
        nodes: Nodes of the graph.
        operators: How many of some operators.
        bytes_per_row: What the model keeps of a row, however long it is.
        lowered: What the ONNX Runtime backend's own rewrites did at load, by their name, or why they did nothing.
    """

    family: str
    method: Method
    dtype: DType
    verified: bool
    problem: str = ""
    difference: dict[str, float] = field(default_factory=dict)
    equal_tokens: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    ort_problem: str = ""
    nodes: int = 0
    operators: dict[str, int] = field(default_factory=dict)
    lowered: dict[str, str] = field(default_factory=dict)
    bytes_per_row: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        says = f"verified, {self.difference}" if self.verified else self.problem
        return f"{self.family} by {self.method} in {self.dtype}: {says} {self.ort_problem}".rstrip()


def run_case(family: str, method: Method, dtype: DType, work: Path) -> Outcome:
    """Runs one case in a working folder."""
    checkpoint, out = work / "checkpoints" / family, work / "models" / f"{family}.{method}.{dtype}"
    if not checkpoint.exists():
        make_checkpoint(family, checkpoint)
    shutil.rmtree(out, ignore_errors=True)
    try:
        result = build(checkpoint, out, BuildOptions(via=method, dtype=dtype))
    except GenAIError as error:
        return Outcome(family, method, dtype, False, error.what)
    compared = result.attempts[-1].comparison
    if compared is None:
        raise RuntimeError("a verified build has a comparison")
    difference, equal = {"numpy": compared.difference}, {"numpy": compared.equal_tokens}
    problem, lowered, bytes_per_row = "", dict[str, str](), 0
    try:
        model = load_model(out, backend="ort")
        lowered = _of_interest(getattr(model, "notes", ()))
        bytes_per_row = model.spec.cache.bytes_per_row
        try:
            on_ort = compare(model, result.reference)
        finally:
            model.close()
        difference["ort"], equal["ort"] = on_ort.difference, on_ort.equal_tokens
        if not on_ort.agrees(dtype):
            problem = f"differs: {on_ort}"
    except GenAIError as error:
        problem = error.what
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    counts = Counter(node.op_type for node in graph.node)
    return Outcome(
        family,
        method,
        dtype,
        True,
        "",
        difference,
        equal,
        compared.steps,
        problem,
        len(graph.node),
        {name: counts[name] for name in _COUNTED},
        lowered,
        bytes_per_row,
    )


def lowered_by_ort(folder: Path) -> dict[str, str]:
    """What the ONNX Runtime backend's own rewrites did to a folder's graph at load."""
    model = load_model(folder, backend="ort")
    try:
        return _of_interest(getattr(model, "notes", ()))
    finally:
        model.close()


def _of_interest(notes: Sequence[str]) -> dict[str, str]:
    parts = (note.partition(": ") for note in notes)
    return {name: said for name, _, said in parts if name in REWRITES}
