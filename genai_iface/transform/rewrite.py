# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What every load-time rewrite is: a pass that says what it did, and why not where it did not."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["GRAPH_ERRORS", "Note", "Rewrite"]

GRAPH_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What onnx, onnx-ir, NumPy and rewrites raise for a graph whose parts contradict each other."""


@dataclass(frozen=True, slots=True)
class Note:
    """What one rewrite did to a graph.

    Attributes:
        rewrite: The name of the rewrite.
        count: How many places it changed; 0 if it left the graph alone.
        reason: What it did, or which precondition failed.
    """

    rewrite: str
    count: int
    reason: str

    @property
    def applied(self) -> bool:
        """Whether the graph was changed."""
        return self.count > 0

    def __str__(self) -> str:
        return f"{self.rewrite}: {'applied' if self.applied else 'not applied'} ({self.reason})"


class Rewrite(ir.passes.InPlacePass):
    """An exact rewrite: the same mathematics, other operators. A failed precondition leaves the graph as it was.

    Attributes:
        name: The name in notes.
        note: What the last call did.
    """

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.note = Note(self.name, 0, "not run")

    @abc.abstractmethod
    def rewrite(self, model: ir.Model) -> Note:
        """Changes the model and says what it did."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Runs the rewrite and drops what nothing reads any more."""
        self.note = self.rewrite(model)
        if self.note.applied:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=self.note.applied)

    def said(self, count: int, reason: str) -> Note:
        """A note under this rewrite's name."""
        return Note(self.name, count, reason)
