# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""onnxscript's rewrite rules without a walk through the whole graph at every node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, _matcher

__all__ = ["quick_matching"]


@contextmanager
def quick_matching() -> Iterator[None]:
    """A pattern of several ends is tried where its first end may be.

    onnxscript 0.7 lists all nodes of the graph for such a pattern before it looks at the one that it was asked for, so
    the one rule of that kind takes longer on a decoder than all others together. What matches stays the same.
    """
    plain = _matcher.SimplePatternMatcher.match

    def match(matcher: Any, model: ir.Model, graph: Any, node: ir.Node, **options: Any) -> Any:
        pattern = matcher.pattern
        if not pattern.has_single_output_node:
            wanted = pattern.output_nodes[0].op_identifier()
            if wanted is not None and wanted != node.op_identifier():
                return MatchResult().fail("The first end is another operator.")
        return plain(matcher, model, graph, node, **options)

    _matcher.SimplePatternMatcher.match = match
    try:
        yield
    finally:
        _matcher.SimplePatternMatcher.match = plain
