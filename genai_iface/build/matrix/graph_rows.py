# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A graph on a program that runs single graphs over the wire: each row alone, its cache fed back from here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from genai_iface.backend_kit import GraphInputs, GraphRun, check_step
from genai_iface.build.matrix.judge import StepSeen
from genai_iface.build.matrix.oracle import Oracle, seen
from genai_iface.conformance.wire import WireAdapter
from genai_iface.folder import ModelFolder

__all__ = ["MOST_BYTES", "GraphRows", "bytes_of"]

MOST_BYTES = 2**25
"""Of a graph with its weights: it goes over the wire with every step."""


class GraphRows:
    """Drives a folder's graph by its signature.

    Args:
        adapter: The program.
        folder: The graph.
        graph: Its bytes, weights included.
    """

    def __init__(self, adapter: WireAdapter, folder: ModelFolder, graph: bytes) -> None:
        self._adapter, self._signature, self._graph = adapter, folder.signature, graph
        self._inputs = GraphInputs(folder.signature, context_length=folder.spec.context_length)
        self._outputs = [str(value.name) for value in folder.load_ir().graph.outputs]

    def steps(self, oracle: Oracle) -> Iterator[StepSeen]:
        """All rows, each up to the end of torch's tokens."""
        size = oracle.logits.shape[2]
        for row, prompt in enumerate(oracle.prompts):
            kept, held = self._empty(oracle.longest), 0
            for step, ids in enumerate((prompt, *oracle.tokens[row][:, None])):
                got, kept = self._run(ids, kept, held, oracle.longest)
                held += len(ids)
                yield seen(oracle, row, step, got, int(got[:size].argmax()))

    def _empty(self, capacity: int) -> dict[str, NDArray[Any]]:
        """What the graph is given for a row that holds nothing, by the names of its inputs."""
        cache = self._signature.cache
        found: dict[str, NDArray[Any]] = {}
        for tensor in self._signature.cache_tensors:
            layer = cache.layers[tensor.layer]
            size = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
            positions = (layer.capacity or capacity) if cache.style == "scatter" else 0
            shape = (
                (layer.num_kv_heads, positions, size)
                if cache.layout == "bnsh"
                else (positions, layer.num_kv_heads * size)
            )
            found[tensor.past] = np.zeros((1, *shape), np.float32)
        for state in self._signature.state_tensors:
            found[state.past] = np.zeros((1, *cache.states[state.state].shape), np.float32)
        return found

    def _run(
        self, ids: NDArray[np.int64], kept: dict[str, NDArray[Any]], held: int, capacity: int
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """The last logits (V,), and what to keep."""
        signature = self._signature
        if signature.one_token and len(ids) > 1:
            got: NDArray[np.float32] = np.zeros(0, np.float32)
            for place in range(len(ids)):
                got, kept = self._run(ids[place : place + 1], kept, held + place, capacity)
            return got, kept
        lengths = np.array([held])
        step = check_step(ids[None], None, "last", lengths=lengths, capacity=capacity, vocab_size=signature.vocab_size)
        run = GraphRun(slice(0, 1), slice(0, len(ids)), lengths, step.counts)
        width = None
        if signature.cache.style == "scatter" and signature.cache_tensors:
            width = kept[signature.cache_tensors[0].past].shape[2 if signature.cache.layout == "bnsh" else 1]
        feeds = {**self._inputs.feeds(step, run, mask_width=width), **kept}
        outputs = dict(zip(self._outputs, self._adapter.run_node(self._graph, feeds), strict=True))
        pairs = [(tensor.past, tensor.present) for tensor in signature.cache_tensors]
        pairs += [(state.past, state.present) for state in signature.state_tensors]
        logits: NDArray[np.float32] = outputs[signature.logits][0, -1]
        return logits, {past: outputs[present] for past, present in pairs}


def bytes_of(folder: ModelFolder) -> bytes:
    """The graph in one piece."""
    model = folder.load_ir()
    ir.external_data.load_to_model(model)
    graph: bytes = ir.to_proto(model).SerializeToString()
    return graph
