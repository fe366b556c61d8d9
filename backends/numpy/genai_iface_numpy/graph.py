# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The graph of a folder, ready to run: in standard operators, with logits where they are asked for, judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.errors import BackendError, GenAIError
from genai_iface.folder import ModelFolder
from genai_iface.graph import GraphSignature
from genai_iface.transform import GRAPH_ERRORS, LOGITS_POSITIONS, SelectLogits
from genai_iface_numpy.buffers import buffer_specs
from genai_iface_numpy.evaluator import Evaluator
from genai_iface_numpy.logits_check import fault_of

__all__ = ["LoadedGraph"]

_REMEDY = "Check the model with onnx.checker, or use another backend."


class LoadedGraph:
    """Runs a graph on cache buffers.

    Args:
        folder: The opened folder.

    Attributes:
        signature: What drives it; another one than the folder's if its operators were contrib ones.
        specs: The buffers that it takes, in the order of the signature's cache tensors.
        last_only: The graph gives the logits of the last column only.

    Raises:
        UnsupportedModelError: A contrib operator has no standard form.
        BackendError: ``onnx.reference`` cannot load it.
    """

    def __init__(self, folder: ModelFolder, /) -> None:
        graph = folder.load_ir()
        try:
            graph, self.signature = _standard(graph, folder.signature)
            self.specs = buffer_specs(self.signature)
            logits = next(value for value in graph.graph.outputs if value.name == self.signature.logits)
            self.last_only = logits.shape is not None and logits.shape[1] == 1
            self._outputs = [self.signature.logits, *(tensor.present for tensor in self.signature.cache_tensors)]
            select = SelectLogits(self.signature)
            select(graph)
            self._evaluator = Evaluator(graph, keep=self._outputs)
        except GenAIError:
            raise
        except GRAPH_ERRORS as error:
            raise BackendError(
                f"onnx.reference cannot load {folder.source}: {type(error).__name__}: {str(error)[:300]}",
                remedy=_REMEDY,
            ) from error
        self._selects_logits = select.note.applied
        self.last_only = self.last_only and not self._selects_logits

    def run(
        self,
        feeds: dict[str, NDArray[Any]],
        past: Sequence[NDArray[Any]],
        /,
        *,
        asked: NDArray[np.int64],
        is_real: NDArray[np.bool_],
    ) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Runs the graph once.

        Args:
            feeds: Values of the inputs that are no cache tensors.
            past: The cache tensors; a graph with TensorScatter writes into them.
            asked: int64 (rows, K), the columns whose logits are wanted.
            is_real: bool (rows, K), which of them hold a token and not padding.

        Returns:
            Logits (rows, K, V), and the cache tensors afterwards.

        Raises:
            BackendError: The graph fails, gives other shapes than its signature says, or logits that are no use.
        """
        feeds = feeds | {tensor.past: array for tensor, array in zip(self.signature.cache_tensors, past, strict=True)}
        if self._selects_logits:
            feeds[LOGITS_POSITIONS] = asked
        try:
            logits, *present = self._evaluator.run(feeds, self._outputs)
            if not self._selects_logits:
                columns = np.zeros_like(asked) if self.last_only else asked
                logits = np.take_along_axis(logits, columns[:, :, None], axis=1)
            self._check_shapes(logits, (*asked.shape, self.signature.vocab_size), past, present)
        except GRAPH_ERRORS as error:
            raise BackendError(
                f"onnx.reference failed in a run for {len(asked)} rows: {str(error)[:300]}", remedy=_REMEDY
            ) from error
        fault = fault_of(logits[is_real])
        if fault is not None:
            origin = self._evaluator.trace(feeds, self.signature.logits, fault.shows_in)
            raise BackendError(
                f"The logits are {fault}; it begins at {origin}",
                remedy="Check the weights, or build the model in a type with more range: bfloat16 or float32.",
            )
        return logits, present

    def _check_shapes(
        self, logits: NDArray[Any], expected: tuple[int, ...], past: Sequence[NDArray[Any]], present: Sequence[Any]
    ) -> None:
        """Raises ValueError where the graph gives other shapes than its signature says."""
        if logits.shape != expected:
            raise ValueError(f"the logits {self.signature.logits!r} have the shape {logits.shape}, expected {expected}")
        for tensor, spec, old, new in zip(self.signature.cache_tensors, self.specs, past, present, strict=True):
            wanted = list(old.shape)
            if self.signature.cache.style == "concat":
                wanted[spec.axis] = new.shape[spec.axis] if new.ndim == old.ndim else -1
            if list(new.shape) != wanted:
                raise ValueError(f"{tensor.present!r} has the shape {new.shape}, its past has {old.shape}")


def _standard(graph: ir.Model, signature: GraphSignature) -> tuple[ir.Model, GraphSignature]:
    """A graph in standard operators: onnx.reference has no contrib ones, and no cache of GroupQueryAttention."""
    if graph.opset_imports.keys() <= {"", "ai.onnx"}:
        return graph, signature
    from genai_iface.transform import standardize  # noqa: PLC0415 - most graphs do not need it

    standard = standardize(graph, signature)
    return standard.model, standard.signature
