# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Internal: what ``open_folder`` changes in a graph, exactly; published graphs ask for more than tokens and a cache.

And where it changes nothing, because the graph knows better than the files beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir

from genai_iface.folder.adjust._branches import take_cached_branch
from genai_iface.folder.adjust._carried import drop_carried
from genai_iface.folder.adjust._kept_logits import give_all_logits
from genai_iface.folder.adjust._refused import refuse_compiled
from genai_iface.folder.adjust._rotation import rotation_note
from genai_iface.folder.adjust._windows import set_windows, unbind_window_buffers, window_note

if TYPE_CHECKING:
    from genai_iface.folder.resolve._side_files import SideFiles

__all__ = ["adjust_graph", "disagreements"]


def adjust_graph(model: ir.Model, side: SideFiles | None = None) -> tuple[str, ...]:
    """Makes a graph one that tokens, lengths and a cache drive. It is changed in place.

    Args:
        model: The model, as it was read.
        side: What stands beside it.

    Returns:
        What was done, one line each; empty for a graph that needs nothing.

    Raises:
        UnsupportedModelError: The graph is made for one device, or in parts.
    """
    refuse_compiled(model)
    done = [take_cached_branch(model), drop_carried(model), give_all_logits(model), unbind_window_buffers(model)]
    if side is not None:
        done.append(set_windows(model, side))
    return tuple(note for note in done if note is not None)


def disagreements(model: ir.Model, side: SideFiles) -> tuple[str, ...]:
    """Where the graph and the files beside it say different things, and which of them is used; one line each.

    Args:
        model: The model after ``adjust_graph``.
        side: What stands beside it.
    """
    notes = (window_note(model, side), rotation_note(model, side))
    return tuple(note for note in notes if note is not None)
