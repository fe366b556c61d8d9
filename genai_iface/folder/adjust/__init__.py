# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""What is changed in a graph when it is read, each change exact: published graphs ask for more than tokens and a cache.

Internal: ``open_folder`` applies it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from genai_iface.folder.resolve.side_files import SideFiles

__all__ = ["adjust_graph"]


def adjust_graph(model: ir.Model, side: SideFiles | None = None) -> tuple[str, ...]:
    """Makes a graph one that tokens, lengths and a cache drive. It is changed in place.

    Returns:
        What was done, one line each; empty for a graph that needs nothing.
    """
    return ()
