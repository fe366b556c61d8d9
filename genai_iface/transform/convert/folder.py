# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Converts a model folder from one way of keeping its cache to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from genai_iface.display import notebook_bar
from genai_iface.errors import GenAIError, InvalidInputError
from genai_iface.folder import ModelFolder, open_folder
from genai_iface.graph._walk import attribute, is_op
from genai_iface.registry import load_model
from genai_iface.transform._model_writer import copy_companions, new_folder, save_checked
from genai_iface.transform.contrib.operators import has_foreign_nodes
from genai_iface.transform.contrib.types import GROUPED
from genai_iface.transform.convert._cache_surgery import Converted
from genai_iface.transform.convert._mask_probe import position_limit, window_sizes
from genai_iface.transform.convert._primitive_operators import PrimitiveOperators
from genai_iface.transform.convert._same_logits import check_same_logits, check_same_step
from genai_iface.transform.convert.concat_cache import to_concat
from genai_iface.transform.convert.scatter_cache import to_scatter
from genai_iface.transform.convert.scatter_nd import to_scatter_nd
from genai_iface.transform.convert.standard_model import to_standard

__all__ = ["Target", "convert_folder"]

Target = Literal["scatter", "standard", "concat", "scatter-nd"]
"""How the converted graph keeps its cache."""

_SCATTERS = ("scatter", "standard")
# These may round activations to 8 bits (accuracy_level 4): the last bit of a float then moves logits by percents.
_ROUNDING = ("com.microsoft.MatMulNBits", "com.microsoft.QMoE")
_ROUNDED = 5e-2


def convert_folder(
    source: str | PathLike[str],
    out: str | PathLike[str],
    /,
    *,
    to: Target = "scatter",
    capacity: int | None = None,
    primitive: bool = False,
    verify: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> Converted:
    """Converts a model and writes it with the other files of its folder.

    Args:
        source: What ``open_folder`` takes.
        out: The new folder; it must not exist, or be empty.
        to: The way to keep the cache; "standard" is "scatter" with contrib operators written in standard ones.
        capacity: Positions of the cache for "scatter" and "standard", None to leave them to the runtime.
        primitive: Spell out Attention, RotaryEmbedding and RMSNormalization in operators of opset 18.
        verify: Compare the result's logits with the source's before the folder appears.
        progress: Called with (what is done, how much of it, all of it). None for a bar in the cell where this runs in
            a notebook, and for nothing elsewhere.

    Returns:
        What was found and done.

    Raises:
        InvalidInputError: A file is missing or broken, or ``out`` is taken.
        UnsupportedModelError: The graph cannot be converted; the message says which node is in the way.
        BackendError: The result computes something else than the source.
    """
    bar = notebook_bar()
    say = progress or (bar.show if bar is not None else lambda what, done, total: None)
    if capacity is not None and to not in _SCATTERS:
        raise InvalidInputError(f"capacity={capacity} does not go with to={to!r}", remedy='Leave it, or use "scatter".')
    if primitive and to in _SCATTERS:
        raise InvalidInputError(
            f'primitive=True does not go with to="{to}", which needs Attention of opset 24',
            remedy="Leave one of them.",
        )
    folder = open_folder(source)
    with new_folder(Path(out)) as made:
        done = _rewritten(folder, to, capacity, lambda count, total: say("reading the layers", count, total))
        if primitive:
            PrimitiveOperators()(done.model)
            done = replace(done, nodes_after=len(done.model.graph))
        say("writing", 0, 1)
        for level in reversed(folder.levels):
            copy_companions(level, made)
        save_checked(done.model, made, external=len(folder.files) > 1)
        if verify:
            say("comparing logits", 0, 1)
            done = _verified(done, folder.source, made)
        say("done", 1, 1)
    return done


def _rewritten(
    folder: ModelFolder, to: Target, capacity: int | None, progress: Callable[[int, int], None]
) -> Converted:
    model = folder.load_ir()
    known: dict[str, Any] = {"numbers": window_sizes(folder.config), "limit": position_limit(folder.config)}
    if to == "standard":
        return to_standard(model, capacity=capacity, progress=progress, **known)
    if to == "scatter":
        return to_scatter(model, capacity=capacity, progress=progress, **known)
    if to == "concat":
        return to_concat(model, progress=progress, **known)
    return to_scatter_nd(model)


def _verified(done: Converted, source: Path, made: Path) -> Converted:
    """With the difference of the logits, or the reason why there is none."""
    if done.signature.cache.style == "scatter" and not any(is_op(node, "TensorScatter") for node in done.model.graph):
        return replace(done, difference=check_same_step(source, made, done.signature))
    reasons = []
    before = open_folder(source).load_ir()
    # The reference backend would write contrib operators in the same standard ones, and see no difference.
    backends = ("ort",) if has_foreign_nodes(before) else ("numpy", "ort")
    for backend in backends:
        try:
            _run_one_token(source, backend)
        except GenAIError as error:
            reasons.append(f"{backend}: {error.what}")
            continue
        tolerance = _ROUNDED if any(is_op(node, *_ROUNDING) for node in before.graph) else None
        # A buffer of one window cannot be filled by rows of unequal length at once.
        ragged = not any(attribute(node, "sliding_window_cache", 0) for node in before.graph if is_op(node, GROUPED))
        difference = check_same_logits(source, made, backend=backend, tolerance=tolerance, ragged=ragged)
        return replace(done, difference=difference)
    return replace(done, unverified=f"no backend runs the source's own operators ({'; '.join(reasons)})")


def _run_one_token(source: Path, backend: str) -> None:
    """Raises GenAIError where the backend cannot run the source; some operators fail only when they run."""
    model = load_model(source, backend=backend)
    try:
        model.forward([[0]], model.create_cache(capacity=1))
    finally:
        model.close()
