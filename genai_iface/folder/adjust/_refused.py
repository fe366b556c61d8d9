# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs that hold no operators to run, but what a vendor's compiler made of them."""

from __future__ import annotations

import onnx_ir as ir

from genai_iface.errors import UnsupportedModelError

__all__ = ["refuse_compiled"]


def refuse_compiled(model: ir.Model) -> None:
    """Refuses a graph with EPContext nodes.

    Raises:
        UnsupportedModelError: It has one.
    """
    for node in model.graph:
        if node.op_type == "EPContext":
            source = node.attributes.get("source")
            made = f" for {str(source.value)[:40]!r}" if source is not None and isinstance(source.value, str) else ""
            raise UnsupportedModelError(
                f"The graph was compiled{made} (EPContext node {node.name!r}); only that device's provider can run it",
                remedy="Take the model that it was compiled from, or a variant for cpu or cuda.",
            )
