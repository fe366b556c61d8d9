# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Drives a graph by its signature, lowered or not: what a backend does, without any of its care for speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from genai_iface.graph import GraphSignature, derive_signature

RunGraph = Callable[[Mapping[str, NDArray[Any]], Sequence[str]], list[NDArray[Any]]]


def on_reference(model: ir.Model) -> RunGraph:
    """Runs on onnx.reference."""
    evaluator = ReferenceEvaluator(ir.to_proto(model))
    return lambda feeds, outputs: evaluator.run(list(outputs), dict(feeds))


def on_ort(model: ir.Model) -> RunGraph:
    """Runs on ONNX Runtime, one thread, activations in float32 also where the weights are quantized."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    data = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda feeds, outputs: session.run(list(outputs), dict(feeds))


def load(proto: Any) -> tuple[ir.Model, GraphSignature]:
    """A fresh copy of a model, and its signature."""
    model = ir.from_proto(proto)
    return model, derive_signature(model)


@dataclass
class Drive:
    """A graph with a cache.

    Attributes:
        run: What runs it.
        signature: Its signature.
        batch_size, capacity: The cache's size.
        logits_positions, query_seqlens: As in ``Lowered``.
    """

    run: RunGraph
    signature: GraphSignature
    batch_size: int = 1
    capacity: int = 32
    logits_positions: str | None = None
    query_seqlens: str | None = None
    lengths: NDArray[np.int64] = field(init=False)
    cache: dict[str, NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = np.zeros(self.batch_size, np.int64)
        self.cache = {}
        spec = self.signature.cache
        num_positions = 0 if spec.style == "concat" else self.capacity
        for tensor in self.signature.cache_tensors:
            layer = spec.layers[tensor.layer]
            size = layer.key_head_dim if tensor.kind == "key" else layer.value_head_dim
            heads, room = layer.num_kv_heads, layer.capacity or num_positions
            shape = (heads, room, size) if spec.layout == "bnsh" else (room, heads * size)
            self.cache[tensor.past] = np.zeros((self.batch_size, *shape), layer.dtype)

    def step(self, ids: Any, counts: Any = None, positions: Any = None) -> NDArray[np.float32]:
        """One step; logits of all positions, or of those asked for."""
        ids = np.asarray(ids, np.int64)
        width = ids.shape[1]
        counts = np.full(self.batch_size, width) if counts is None else np.asarray(counts)
        feeds = {
            name: self._role(role, ids, counts).astype(self.signature.input_dtypes[role])
            for role, name in self.signature.inputs.items()
        }
        if self.logits_positions is not None:
            every = np.tile(np.arange(width), (self.batch_size, 1))
            feeds[self.logits_positions] = every if positions is None else np.asarray(positions, np.int64)
        if self.query_seqlens is not None:
            feeds[self.query_seqlens] = counts.astype(np.int32)
        presents = [tensor.present for tensor in self.signature.cache_tensors]
        logits, *new = self.run(feeds | self.cache, [self.signature.logits, *presents])
        self.cache = {tensor.past: value for tensor, value in zip(self.signature.cache_tensors, new, strict=True)}
        self.lengths = self.lengths + counts
        if positions is not None and self.logits_positions is None:
            logits = np.take_along_axis(logits, np.asarray(positions)[:, :, None], axis=1)
        return np.asarray(logits, np.float32)

    def _role(self, role: str, ids: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[Any]:
        width = ids.shape[1]
        valid = self.lengths + (width if self.query_seqlens is None else counts)
        valid = np.maximum(valid, 1)
        return {
            "input_ids": ids,
            "position_ids": self.lengths[:, None] + np.arange(width),
            "write_indices": self.lengths,
            "nonpad_kv_seqlen": self.lengths + width,
            "attention_mask": np.ones((len(ids), int(self.lengths[0]) + width)),
            "seqlens_k": valid - 1,
            "total_sequence_length": np.asarray(valid.max()),
        }[role]


def same_steps(before: Drive, after: Drive, *, ragged: bool = True, highest_id: int = 255) -> float:
    """Runs prefill, decode, chunks and idle rows on both, asking for each row's last logits: the largest difference."""
    random = np.random.default_rng(0)
    batch = before.batch_size
    plan = [(6, [6, 3, 1]), (1, [1, 1, 1]), (4, [2, 0, 4]), (1, [1, 0, 1]), (5, [5, 5, 5]), (3, [3, 0, 1])]
    worst = 0.0
    for width, counts in plan:
        real = np.array(counts[:batch]) if ragged else np.full(batch, width)
        ids = random.integers(0, highest_id, (batch, width))
        last = np.maximum(real - 1, 0)[:, None]
        wanted, got = before.step(ids, real, last), after.step(ids, real, last)
        assert got.shape == wanted.shape
        worst = max(worst, float(np.abs(wanted - got)[real > 0].max()))
    assert (before.lengths == after.lengths).all()
    return worst


def count_ops(model: ir.Model) -> dict[str, int]:
    """Nodes by operator."""
    return dict(Counter(node.op_type for node in model.graph))
