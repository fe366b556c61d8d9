# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A model of this SDK behind Transformers' ``ModelRunner``: forward calls become ragged steps with a cache."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from transformers.exporters import ExportMetadata, ModelRunner

from genai_iface.build._model_file import save_model
from genai_iface.errors import InvalidInputError
from genai_iface.protocols import KVCache, Model
from genai_iface.registry import load_model

__all__ = ["StepCache", "StepRunner"]


class StepCache:
    """What a runner gives back as the cache: one of this SDK, under the names of Transformers' methods.

    Args:
        kv: The cache of the model that the runner drives.
    """

    def __init__(self, kv: KVCache) -> None:
        self.kv = kv

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row, padding not counted; the same in every layer."""
        del layer_idx
        return int(self.kv.lengths.max())

    def crop(self, max_length: int) -> None:
        """Forgets tokens of every row: those from a position on, or the last ``-max_length``."""
        lengths = np.asarray(self.kv.lengths)
        self.kv.rewind_to(np.minimum(lengths, max_length) if max_length >= 0 else np.maximum(lengths + max_length, 0))

    def reorder_cache(self, beam_idx: Any) -> None:
        """Row i becomes row ``beam_idx[i]``."""
        self.kv.reorder(np.asarray(beam_idx, np.int64))

    def reset(self) -> None:
        """Forgets everything."""
        self.kv.reset()


class StepRunner(ModelRunner):
    """Runs a model folder on a backend, called as the torch network is: one step for each call.

    Rows may be padded on either side, as the mask says; padding enters no cache.

    Args:
        model: The loaded model.
        metadata: What export.json says of it.
    """

    def __init__(self, model: Model[Any], metadata: ExportMetadata) -> None:
        super().__init__(metadata)
        self.model = model

    @property
    def device(self) -> torch.device:
        """Where logits are given: in host memory, whichever device computes them."""
        return torch.device("cpu")

    @classmethod
    def from_program(
        cls,
        program: ir.Model,
        metadata: ExportMetadata,
        device: Any = None,
        backend: str = "ort",
        options: Mapping[str, Any] | None = None,
    ) -> StepRunner:
        """A runner for a graph in memory, or for one that was loaded from a model folder.

        Args:
            program: The graph; ``program.meta["path"]`` is its file if it has one.
            metadata: What the exporter recorded.
            device: In torch's form; None for the backend's default.
            backend: The name of a backend.
            options: The backend's own settings.

        Raises:
            GenAIError: The model cannot be loaded there.
        """
        name = None if device is None else str(torch.device(device))
        if "path" in program.meta:
            folder = Path(program.meta["path"]).parent
            return cls(load_model(folder, backend=backend, device=name, options=options), metadata)
        made = tempfile.TemporaryDirectory(prefix="genai-iface-")
        save_model(program, Path(made.name))
        runner = cls(load_model(made.name, backend=backend, device=name, options=options), metadata)
        weakref.finalize(runner, made.cleanup)  # a backend may map the weights as long as it lives
        return runner

    def __call__(self, share_inputs: bool = True, share_outputs: bool = False, **kwargs: Any) -> Any:
        """Appends tokens to the cache and returns what the network returns.

        Args:
            share_inputs: Without effect: inputs are small.
            share_outputs: Without effect: outputs are new tensors.
            kwargs: input_ids (B, S); attention_mask (B, past + S), None for no padding; position_ids (B, S), which
                have to count each row's tokens; cache, what the last call returned, None to begin.

        Returns:
            The network's output: logits float32 (B, S, V), zeros at padding, and the cache.

        Raises:
            InvalidInputError: A mask has holes, positions leave the order, or the cache is not of this model.
        """
        ids = _array(kwargs["input_ids"])
        kv = self._cache(kwargs.get("cache"), len(ids))
        rows, counts = _gathered(ids, kwargs.get("attention_mask"))
        _check_positions(kwargs.get("position_ids"), rows, np.asarray(kv.lengths))
        # Each row's tokens to the front, and their logits back to where the tokens were.
        order = np.argsort(~rows, axis=1, kind="stable")
        steps = int(counts.max())
        got = self.model.forward(np.take_along_axis(ids, order, 1)[:, :steps], kv, counts=counts, logits="all")
        logits = np.zeros((*ids.shape, got.shape[-1]), np.float32)
        logits[rows] = got[np.arange(steps) < counts[:, None]]
        return self.unflatten([torch.from_numpy(logits), StepCache(kv)])

    def _cache(self, given: Any, batch_size: int) -> KVCache:
        if isinstance(given, StepCache):
            return given.kv
        if given is None or given.get_seq_length() == 0:
            cache: KVCache = self.model.create_cache(batch_size=batch_size)
            return cache
        raise InvalidInputError(
            f"The cache is a {type(given).__name__} with tokens in it, which this model cannot read",
            remedy="Pass the cache that the last call returned, or None to begin.",
        )


def _array(value: Any) -> NDArray[np.int64]:
    return np.asarray(value.cpu() if isinstance(value, torch.Tensor) else value, np.int64)


def _gathered(ids: NDArray[np.int64], mask: Any) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of the tokens are real, (B, S), and how many of each row, (B,).

    Raises:
        InvalidInputError: The mask has another form, or a hole.
    """
    if mask is None:
        rows = np.ones(ids.shape, bool)
    else:
        whole = _array(mask)
        if whole.ndim != 2 or len(whole) != len(ids) or whole.shape[1] < ids.shape[1]:
            raise InvalidInputError(
                f"attention_mask has the shape {whole.shape}, expected ({len(ids)}, past + {ids.shape[1]})",
                remedy="Give a mask with a column for every token so far, padding included.",
            )
        rows = whole[:, whole.shape[1] - ids.shape[1] :] != 0
    edges = np.abs(np.diff(rows.astype(np.int8), axis=1, prepend=0, append=0)).sum(1)
    if (edges > 2).any():
        raise InvalidInputError(
            f"attention_mask has a hole in row {int(np.argmax(edges > 2))}: padding between tokens",
            remedy="Pad on one side.",
        )
    return rows, rows.sum(1)


def _check_positions(given: Any, rows: NDArray[np.bool_], lengths: NDArray[np.int64]) -> None:
    """Positions follow from the cache; others would be ignored.

    Raises:
        InvalidInputError: They are others.
    """
    if given is None:
        return
    positions = np.broadcast_to(_array(given), rows.shape)
    expected = lengths[:, None] + np.cumsum(rows, axis=1) - 1
    if (positions[rows] != expected[rows]).any():
        raise InvalidInputError(
            f"position_ids are {positions.tolist()}, but the rows continue at {lengths.tolist()}",
            remedy="Leave position_ids out: they follow from the cache.",
        )
