# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Sliding windows of GroupQueryAttention: those that only a configuration knows, and buffers of one window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

if TYPE_CHECKING:
    from genai_iface.folder.resolve._side_files import SideFiles

__all__ = ["set_windows", "unbind_window_buffers", "window_note"]

_WINDOW = "local_window_size"
_BUFFER = "sliding_window_cache"
_LARGEST = 2**31 - 1


def unbind_window_buffers(model: ir.Model) -> str | None:
    """Lets caches of windowed layers have the length of the others.

    With the attribute a kernel keeps one window in a ring of its own order, and takes no ragged prompts. Without it the
    same keys are seen: the window itself is another attribute, and stays.

    Returns:
        What was done, None for nothing.
    """
    nodes = [node for node in _grouped(model) if _BUFFER in node.attributes]
    for node in nodes:
        del node.attributes[_BUFFER]
    return f"window-buffers: {len(nodes)} layers keep their whole past; the window stays" if nodes else None


def set_windows(model: ir.Model, side: SideFiles) -> str | None:
    """Puts windows into a graph that has none where genai_config.json or config.json says that there are.

    Returns:
        What was done, None for nothing.
    """
    nodes = _grouped(model)
    told = _told_windows(side, len(nodes))
    if told is None or any(_window(node) is not None for node in nodes):
        return None
    name, wanted = told
    if not any(window is not None for window in wanted):
        return None
    for node, window in zip(nodes, wanted, strict=True):
        if window is not None:
            node.attributes[_WINDOW] = ir.AttrInt64(_WINDOW, window)
    return f"windows: {_shown(wanted)}, from {name}; the graph has none"


def window_note(model: ir.Model, side: SideFiles) -> str | None:
    """Which of graph and configuration won where both name windows, and others; None where they agree."""
    nodes = _grouped(model)
    told = _told_windows(side, len(nodes))
    given = [_window(node) for node in nodes]
    if told is None or given == told[1]:
        return None
    return f"windows: the graph's are used ({_shown(given)}); {told[0]} says {_shown(told[1])}"


def _grouped(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "GroupQueryAttention" and node.domain == "com.microsoft"]


def _window(node: ir.Node) -> int | None:
    given = node.attributes.get(_WINDOW)
    return given.value if given is not None and isinstance(given.value, int) and given.value > 0 else None


def _told_windows(side: SideFiles, layers: int) -> tuple[str, list[int | None]] | None:
    """The file that speaks of windows, and the window of each layer."""
    decoder = side.genai.get("decoder")
    told = decoder.get("sliding_window") if isinstance(decoder, Mapping) else None
    if isinstance(told, Mapping):
        window, listed = _size(told.get("window_size")), told.get("layers")
        # Builders write an empty list for a model whose layers all have the window.
        places = [place for place in listed if isinstance(place, int)] if isinstance(listed, list) and listed else None
        return _by_layer("genai_config.json", window, places, layers)
    config: Mapping[str, Any] = side.config
    text = config.get("text_config")
    config = text if isinstance(text, Mapping) else config
    window = None if config.get("use_sliding_window") is False else _size(config.get("sliding_window"))
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        places = [place for place, kind in enumerate(kinds) if kind == "sliding_attention"]
        return _by_layer("config.json", window if places else None, places, layers)
    # Without a list of layers these say that some have no window, and not plainly which.
    is_mixed = any(config.get(name) is not None for name in ("sliding_window_pattern", "max_window_layers"))
    return None if is_mixed else _by_layer("config.json", window, None, layers)


def _by_layer(
    name: str, window: int | None, places: Sequence[int] | None, layers: int
) -> tuple[str, list[int | None]] | None:
    if window is None or not layers:
        return None
    return name, [window if places is None or layer in places else None for layer in range(layers)]


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST else None


def _shown(windows: Sequence[int | None]) -> str:
    sizes = sorted({window for window in windows if window is not None})
    with_one = sum(window is not None for window in windows)
    return f"{' and '.join(map(str, sizes)) or 'none'} in {with_one} of {len(windows)} layers"
