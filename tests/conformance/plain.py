# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A backend over the golden weights without a runtime, written so that single decisions can be spoilt.

It does what the standard operators do (write at an index per row, attend with a valid length), in float32,
each decision in a method of its own. ``mutants.py`` overrides one method per mutant.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from genai_iface import (
    BackendInfo,
    CacheRewindError,
    CacheSpec,
    Capability,
    Device,
    InvalidInputError,
    LayerCacheSpec,
    ModelSpec,
)
from genai_iface.backend_kit import check_batch_and_capacity, check_indices, check_lengths, check_rows, check_step
from genai_iface.conformance.decoder.plan import PLANS, Plan

CAPABILITIES = frozenset(Capability) - {
    Capability.STATE,
    Capability.REWIND_STEP,
    Capability.CHECKPOINT,
    Capability.CACHE_SHARED,
    Capability.CACHE_CONCAT,
    Capability.SAVE,
    Capability.GENERATOR,
}
DEVICE = Device("cpu", "cpu")


class PlainCache:
    """Keys and values (layers, 2, B, Hkv, num_positions, D). What lies beyond a length is garbage."""

    def __init__(self, model: PlainModel, batch_size: int, capacity: int) -> None:
        self.model = model
        self.plan = model.plan
        self._capacity = capacity
        self._lengths = np.zeros(batch_size, np.int64)
        self.is_closed = False
        num_positions = max(self.plan.windows, default=self.plan.window or min(capacity, 16))
        self.data = np.zeros(
            (self.plan.layers, 2, batch_size, self.plan.num_kv_heads, num_positions, self.plan.head_dim), np.float32
        )

    @property
    def batch_size(self) -> int:
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths.copy()

    @property
    def nbytes(self) -> int:
        return 0 if self.is_closed else int(self.data.nbytes)

    @property
    def bytes_per_token(self) -> int:
        return self.model.spec.cache.bytes_per_token

    @property
    def update_mode(self) -> str:
        return "in_place"

    def can_rewind_to(self, lengths: Any, /) -> bool:
        self.check_open()
        return self.lost_row(check_lengths(lengths, self._lengths)) is None

    def rewind_to(self, lengths: Any, /) -> None:
        self.check_open()
        wanted = check_lengths(lengths, self._lengths)
        row = self.lost_row(wanted)
        if row is not None:
            raise CacheRewindError(row, int(wanted[row]), int(self._lengths[row]), "the ring has wrapped")
        self._lengths = wanted

    def lost_row(self, wanted: np.ndarray) -> int | None:
        window = self.plan.window
        if window is None:
            return None
        lost = np.flatnonzero((self._lengths > window) & (wanted < self._lengths))
        return int(lost[0]) if lost.size else None

    def check_open(self) -> None:
        if self.is_closed:
            raise InvalidInputError("the cache is closed", remedy="Make a new one.")

    def reorder(self, indices: Any, /) -> None:
        self.check_open()
        wanted = check_indices(indices, self.batch_size)
        self.data, self._lengths = self.data[:, :, wanted], self._lengths[wanted]

    def reset(self, rows: Any = None, /) -> None:
        self.check_open()
        self._lengths[check_rows(rows, self.batch_size)] = 0

    def close(self) -> None:
        self.is_closed = True

    def fork(self) -> PlainCache:
        self.check_open()
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.data, copy._lengths = self.data.copy(), self._lengths.copy()
        return copy

    def read(self, layer: int, row: int, /) -> tuple[np.ndarray, np.ndarray]:
        self.check_open()
        if not 0 <= row < self.batch_size:
            raise InvalidInputError(f"row {row} is not in the cache", remedy="Count from 0.")
        places = np.arange(self._lengths[row])
        window = self.plan.window_of(layer)
        if window:
            places = places[-window:] % window
        keys, values = self.data[layer, :, row][:, :, places]
        return keys, values

    def make_room(self, num_positions: int) -> None:
        have = self.data.shape[4]
        if self.plan.window is None and num_positions > have:
            room = np.zeros((*self.data.shape[:4], max(num_positions, 2 * have) - have, self.plan.head_dim), np.float32)
            self.data = np.concatenate((self.data, room), axis=4)

    def advance(self, counts: np.ndarray, width: int) -> None:
        self._lengths = self._lengths + counts


class PlainModel:
    """The decoder of one golden folder."""

    cache_type = PlainCache

    def __init__(self, folder: Path) -> None:
        try:
            graph = onnx.load(folder / "model.onnx").graph
            vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
        except Exception as error:
            raise InvalidInputError(f"{folder} cannot be read: {error}", remedy="Give a golden folder.") from error
        self.plan = self.find_plan(folder, graph.name, vocab_size)
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for name in [name.removesuffix(".codes") for name in self.weights if name.endswith(".codes")]:
            codes, zero, scale = (self.weights[f"{name}.{what}"] for what in ("codes", "zero_point", "scale"))
            self.weights[name] = self.dequantized(codes.astype(np.float32), scale, zero.astype(np.float32))
        self.is_closed = False
        layers = tuple(
            LayerCacheSpec(
                self.plan.num_kv_heads,
                self.plan.head_dim,
                self.plan.head_dim,
                "float32",
                "circular" if self.plan.window else "linear",
                self.plan.window_of(index) or self.plan.fixed_capacity,
            )
            for index in range(self.plan.layers)
        )
        cache = CacheSpec("scatter", "bnsh", layers)
        self._spec = ModelSpec(vocab_size, self.plan.context_length, cache)

    def find_plan(self, folder: Path, name: str, vocab_size: int) -> Plan:
        return next(plan for plan in PLANS if plan.name == name)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def device(self) -> Device:
        return DEVICE

    @property
    def capabilities(self) -> frozenset[str]:
        return CAPABILITIES - ({Capability.REWIND} if self.plan.window else {Capability.CACHE_CIRCULAR})

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> PlainCache:
        linear = self.plan.fixed_capacity if self.plan.window is None else None
        limit = min(self.plan.context_length, linear or self.plan.context_length)
        check_batch_and_capacity(batch_size, capacity, limit)
        return self.cache_type(self, batch_size, capacity or limit)

    def forward(self, input_ids: Any, cache: PlainCache, /, *, counts: Any = None, logits: Any = "last") -> np.ndarray:
        if self.is_closed or cache.is_closed or cache.model is not self:
            raise InvalidInputError("the model or the cache is closed, or of another model", remedy="Make a new one.")
        lengths = cache.lengths
        step = check_step(
            input_ids, counts, logits, lengths=lengths, capacity=cache.capacity, vocab_size=self._spec.vocab_size
        )
        ids, counts = self.padding(step.input_ids, input_ids, step.counts), step.counts
        width = ids.shape[1]
        if not counts.any():
            every = np.zeros((*ids.shape, self._spec.vocab_size), np.float32)
        elif self.plan.window:
            every = np.stack([self.ring_row(ids[row], int(counts[row]), cache, row) for row in range(len(ids))])
        else:
            # Room for the padding, which is written too.
            cache.make_room(int(lengths.max()) + width)
            every = self.run(ids, cache, lengths, counts, slice(None))
        cache.advance(counts, width)
        return self.select(every, counts, logits)

    def close(self) -> None:
        self.is_closed = True

    # Decisions, one each.

    def padding(self, clean: np.ndarray, given: Any, counts: np.ndarray) -> np.ndarray:
        return clean

    def write_indices(self, lengths: np.ndarray) -> np.ndarray:
        return lengths

    def buffer_index(self, position: int, num_positions: int) -> int:
        return position % num_positions if self.plan.window else position

    def positions(self, lengths: np.ndarray, width: int) -> np.ndarray:
        return lengths[:, None] + np.arange(width)

    def nonpad(self, lengths: np.ndarray, counts: np.ndarray, width: int) -> np.ndarray:
        return lengths + width

    def causal_offset(self, nonpad: int, width: int) -> int:
        return nonpad - width

    def dequantized(self, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        size = len(codes) // len(scale)
        return (codes - np.repeat(zero, size, 0)) * np.repeat(scale, size, 0)

    def shares(self, scores: np.ndarray) -> np.ndarray:
        """What each of the experts (..., E) gets: the best two, by softmax."""
        order = np.sort(scores, axis=-1)
        mass = np.where(scores >= order[..., -2:-1], np.exp(scores - order[..., -1:]), 0)
        return mass / mass.sum(-1, keepdims=True)

    def kv_head(self, head: int) -> int:
        return head // (self.plan.num_heads // self.plan.num_kv_heads)

    def scale(self) -> float:
        return self.plan.head_dim**-0.5

    def cap(self, scores: np.ndarray) -> np.ndarray:
        return np.tanh(scores / self.plan.softcap) * self.plan.softcap if self.plan.softcap else scores

    def rotary_size(self) -> int:
        return self.plan.rotary_dim or self.plan.head_dim

    def matmul(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left @ right

    def select(self, every: np.ndarray, counts: np.ndarray, logits: str) -> np.ndarray:
        if logits == "all":
            return every
        if logits == "none":
            return every[:, :0]
        return np.take_along_axis(every, np.maximum(counts - 1, 0)[:, None, None], axis=1)

    # The decoder.

    def ring_row(self, ids: np.ndarray, count: int, cache: PlainCache, row: int) -> np.ndarray:
        result = np.zeros((len(ids), self._spec.vocab_size), np.float32)
        for step in range(count):
            lengths = cache.lengths[row : row + 1] + step
            one = np.ones(1, np.int64)
            result[step] = self.run(ids[None, step : step + 1], cache, lengths, one, slice(row, row + 1))[0, 0]
        return result

    def run(
        self, ids: np.ndarray, cache: PlainCache, lengths: np.ndarray, counts: np.ndarray, rows: slice
    ) -> np.ndarray:
        weights = self.weights
        positions = self.positions(lengths, ids.shape[1])
        # Padding may stand beyond the tables; what it gives is not used.
        positions = np.clip(positions, 0, len(weights["cos"]) - 1)
        hidden = weights["embedding"][ids]
        for layer in range(self.plan.layers):
            x = self.norm(hidden, f"{layer}.norm1")
            q, k, v = (self.heads(self.matmul(x, weights[f"{layer}.{name}"])) for name in "qkv")
            q, k = self.rotate(q, positions), self.rotate(k, positions)
            data = cache.data[layer, :, rows, :, : self.plan.window_of(layer)]
            mixed = self.attend(q, k, v, data, lengths, counts)
            hidden = hidden + self.matmul(mixed, weights[f"{layer}.o"])
            x = self.norm(hidden, f"{layer}.norm2")
            shares = (
                self.shares(self.matmul(x, weights[f"{layer}.router"])) if self.plan.experts else np.ones((1, 1, 1))
            )
            for expert, at in enumerate(self.plan.mlps(layer)):
                gate = self.matmul(x, weights[f"{at}.gate"])
                active = gate / (1 + np.exp(-gate)) * self.matmul(x, weights[f"{at}.up"])
                hidden = hidden + shares[..., expert, None] * self.matmul(active, weights[f"{at}.down"])
        hidden = hidden.astype(np.float32)
        return self.matmul(self.norm(hidden, "norm"), weights["head"]).astype(np.float32)

    def attend(
        self, q: np.ndarray, k: np.ndarray, v: np.ndarray, data: np.ndarray, lengths: np.ndarray, counts: np.ndarray
    ) -> np.ndarray:
        """(B, S, H * D): writes keys and values into the rows' data (2, B, Hkv, num_positions, D), then attends."""
        num_rows, num_heads, width, size = q.shape
        num_positions = data.shape[3]
        starts = self.write_indices(lengths)
        nonpad = self.nonpad(lengths, counts, width)
        result = np.zeros((num_rows, width, num_heads, size), np.float32)
        for row in range(num_rows):
            for step in range(width):
                place = self.buffer_index(int(starts[row]) + step, num_positions)
                data[0, row, :, place], data[1, row, :, place] = k[row, :, step], v[row, :, step]
            valid = min(int(nonpad[row]), num_positions)
            offset = self.causal_offset(valid, width)
            hidden = np.arange(valid) > np.arange(width)[:, None] + offset
            for head in range(num_heads):
                keys, values = data[:, row, self.kv_head(head), :valid]
                scores = self.cap(self.matmul(q[row, head], keys.T) * np.float32(self.scale()))
                scores = np.where(hidden, -np.inf, scores)
                top = np.maximum(scores.max(-1, keepdims=True, initial=-1e30), -1e30)
                mass = np.exp(scores - top)
                total = np.maximum(mass.sum(-1, keepdims=True), 1e-30)
                result[row, :, head] = self.matmul(mass / total, values)
        return result.reshape(num_rows, width, -1)

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5)) * self.weights[name]

    def heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], -1, self.plan.head_dim).swapaxes(1, 2)

    def rotate(self, x: np.ndarray, positions: np.ndarray) -> np.ndarray:
        half = self.rotary_size() // 2
        cos, sin = (self.weights[name][positions][:, None, :, :half] for name in ("cos", "sin"))
        half = cos.shape[-1]
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate((first * cos - second * sin, second * cos + first * sin, rest), axis=-1)


class PlainBackend:
    """The backend; ``model_type`` is what a mutant changes."""

    def __init__(self, model_type: type[PlainModel] = PlainModel, info: Mapping[str, Any] | None = None) -> None:
        self.model_type = model_type
        self._info = dict(info or {})

    def info(self) -> BackendInfo:
        values: dict[str, Any] = {
            "name": "plain",
            "version": "1",
            "runtime": "numpy",
            "runtime_version": np.__version__,
            "interface_versions": frozenset({1}),
            "capabilities": CAPABILITIES,
            "dtypes": frozenset({"float32"}),
        }
        return BackendInfo(**{**values, **self._info})

    def devices(self) -> Sequence[Device]:
        return [DEVICE]

    def load(self, folder: Any, /, *, device: str | None = None, options: Any = None) -> PlainModel:
        if device not in (None, "cpu") or options:
            raise InvalidInputError("no such device or option", remedy="Give none.")
        return self.model_type(Path(folder))


class PlainAdapter:
    """The adapter: what a vendor has to write."""

    def __init__(self, backend: PlainBackend | None = None, name: str = "plain") -> None:
        self.name = name
        self._backend = backend or PlainBackend()

    def backend(self) -> PlainBackend:
        return self._backend
