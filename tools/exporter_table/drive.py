# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""Drives exported graphs as they are: the prompt, then token by token, each state output fed to the input it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.exporters.utils import get_leaf_tensors

from genai_iface._tolerance import relative_difference
from genai_iface.build._network_cache import cache_keyword, cache_of
from genai_iface.folder._inline import inline_functions
from genai_iface_numpy.evaluator import Evaluator
from tools.exporter_table.outcome import Run

__all__ = ["RUNTIMES", "Graph", "cached_logits", "empty_states", "greedy", "logits_of", "measured"]

RUNTIMES = ("ort", "numpy")


@dataclass(frozen=True, slots=True)
class Graph:
    """One exported graph, ready to run.

    Attributes:
        inputs: Each input's element type and shape; axes that are free are None.
        run: Takes values for the inputs, gives all outputs by name.
    """

    inputs: Mapping[str, tuple[np.dtype[Any], tuple[int | None, ...]]]
    run: Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]

    @classmethod
    def load(cls, path: Path, runtime: str) -> Graph:
        """Loads a graph on one of ``RUNTIMES``."""
        proto = onnx.load(path, load_external_data=runtime != "ort")
        inputs = {value.name: _described(value) for value in proto.graph.input}
        outputs = [value.name for value in proto.graph.output]
        if runtime == "numpy":
            inline_functions(proto)
            evaluator = Evaluator(ir.from_proto(proto), keep=outputs)
            return cls(inputs, lambda feeds: dict(zip(outputs, evaluator.run(feeds, outputs), strict=True)))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return cls(inputs, lambda feeds: dict(zip(outputs, session.run(outputs, dict(feeds)), strict=True)))


def _described(value: onnx.ValueInfoProto) -> tuple[np.dtype[Any], tuple[int | None, ...]]:
    kind = value.type.tensor_type
    # The exporter writes some sizes that are fixed as names, "16".
    names = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim]
    dims = tuple(int(name) if name.isdecimal() else None for name in names)
    return onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type), dims


def greedy(network: Any, prompts: NDArray[np.int64], steps: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Torch's greedy tokens (B, steps) and logits (steps, B, V), without any cache."""
    ids, logits = torch.from_numpy(prompts), []
    with torch.no_grad():
        for _ in range(steps):
            logits.append(network(input_ids=ids, use_cache=False).logits[:, -1].float())
            ids = torch.cat([ids, logits[-1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, prompts.shape[1] :].numpy(), torch.stack(logits).numpy()


def cached_logits(network: Any, prompts: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Torch's logits (steps, B, V) where it is fed these tokens one by one, with its own cache."""
    ids, cache, logits = torch.from_numpy(prompts), None, []
    with torch.no_grad():
        for step in range(tokens.shape[1]):
            output = network(input_ids=ids, **cache_keyword(network, cache), use_cache=True)
            cache = cache_of(output)
            logits.append(output.logits[:, -1].float())
            ids = torch.from_numpy(tokens[:, step : step + 1])
    found: NDArray[np.float32] = torch.stack(logits).numpy()
    return found


def empty_states(network: Any) -> dict[str, NDArray[Any]]:
    """What an empty cache of the network holds besides keys and values, by the name of the graph's input."""
    leaves = get_leaf_tensors({"cache": DynamicCache(config=network.config.get_text_config())})
    return {name: tensor.numpy() for name, tensor in leaves.items()}


def logits_of(
    graphs: Sequence[Graph], states: Mapping[str, NDArray[Any]], prompts: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Logits (steps, B, V) of an export that is fed torch's tokens.

    Args:
        graphs: The graph for the prompt and the one for tokens, or one for both.
        states: What the states that are no tensors of zeros hold at first.
        prompts: int64 (B, S).
        tokens: int64 (B, steps).
    """
    ids, kept, found = prompts, dict(states), []
    for step in range(tokens.shape[1]):
        graph = graphs[0 if step == 0 else -1]
        outputs = graph.run(_feeds(graph, kept, ids, prompts.shape[1] + step))
        found.append(outputs["logits"][:, -1].astype(np.float32))
        kept |= {name.removeprefix("output."): value for name, value in outputs.items() if name != "logits"}
        ids = tokens[:, step : step + 1]
    return np.stack(found)


def _feeds(
    graph: Graph, states: Mapping[str, NDArray[Any]], ids: NDArray[np.int64], total: int
) -> dict[str, NDArray[Any]]:
    rows, count = ids.shape
    positions = np.arange(total - count, total)
    known = {
        "input_ids": ids,
        "attention_mask": np.ones((rows, total), np.int64),
        "position_ids": np.broadcast_to(positions, (rows, count)).copy(),
        "cache_position": positions,
        **states,
    }
    feeds = {}
    for name, (dtype, shape) in graph.inputs.items():
        path = name.removeprefix("input.")
        if path not in known:
            sizes = [rows if axis == 0 and size is None else size or 0 for axis, size in enumerate(shape)]
            known[path] = np.zeros(sizes, dtype)
        feeds[name] = known[path].astype(dtype, copy=False)
    return feeds


def measured(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> Run:
    """Compares logits (steps, B, V) up to the first step with another likeliest token."""
    worst = 0.0
    for step, (whole, wanted) in enumerate(zip(logits, expected, strict=True)):
        got = whole[:, : wanted.shape[1]]
        if not np.isfinite(got).all():
            return Run(step, problem="", difference=-1.0, margin=-1.0)
        worst = max(worst, *(relative_difference(one, other) for one, other in zip(got, wanted, strict=True)))
        wrong = np.flatnonzero(got.argmax(-1) != wanted.argmax(-1))
        if wrong.size:
            second, first = np.partition(wanted[wrong], -2, axis=-1)[:, -2:].T
            margins = (first - second) / np.abs(wanted[wrong]).max(-1)
            return Run(step, worst, float(margins.max()))
    return Run(None, worst)
