# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""The oracle of the backend tests: onnx.reference as it comes, one row, one run, no cache logic.

A row's tokens go through the graph from an empty cache in a single step (token by token where a
circular cache wraps), so nothing of ours that is under test takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

_DTYPES = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.BFLOAT16: ml_dtypes.bfloat16,
}


class Oracle:
    """Runs the graph of a test folder written by ``tests.models``, by the names used there."""

    def __init__(self, folder: Path) -> None:
        self.model = onnx.load(folder / "model.onnx")
        self.evaluator = ReferenceEvaluator(self.model)

    def logits(self, tokens: Sequence[int], *, capacity: int = 48, one_by_one: bool = False) -> np.ndarray:
        """float32 (len(tokens), V): the logits after each token of one row."""
        past = {value.name: self._empty(value, capacity) for value in self._caches()}
        pieces = [[token] for token in tokens] if one_by_one else [list(tokens)]
        rows, begin = [], 0
        for piece in pieces:
            feeds = self._feeds(np.array([piece]), begin, past)
            outputs = [value.name for value in self.model.graph.output]
            with np.errstate(all="ignore"):
                results = dict(zip(outputs, self.evaluator.run(None, feeds), strict=True))
            rows.append(results["logits"][0].astype(np.float32))
            past = {name: results[name.replace("past_key_values", "present")] for name in past}
            begin += len(piece)
        return np.concatenate(rows)

    def _caches(self) -> list[onnx.ValueInfoProto]:
        return [value for value in self.model.graph.input if value.name.startswith("past_key_values")]

    def _empty(self, value: onnx.ValueInfoProto, capacity: int) -> np.ndarray:
        named = {"B": 1, "C": capacity, "P": 0}
        shape = [named.get(dim.dim_param, dim.dim_value) for dim in value.type.tensor_type.shape.dim]
        return np.zeros(shape, _DTYPES[value.type.tensor_type.elem_type])

    def _feeds(self, ids: np.ndarray, begin: int, past: dict[str, np.ndarray]) -> dict[str, Any]:
        end = begin + ids.shape[1]
        every = {
            "input_ids": ids,
            "position_ids": np.arange(begin, end)[None],
            "write_indices": np.array([begin]),
            "nonpad_kv_seqlen": np.array([end]),
            "attention_mask": np.ones((1, end), np.int64),
            **past,
        }
        return {value.name: every[value.name] for value in self.model.graph.input}
