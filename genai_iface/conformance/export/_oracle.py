# SPDX-FileCopyrightText: The ONNX generative-AI interface authors
# SPDX-License-Identifier: Apache-2.0
"""A runtime that is the reference itself, and writes down what is asked of it.

Caches hold tokens; logits are those of the float64 decoder over a whole row. A check that runs on it leaves a program
of steps with everything that a right runtime must answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genai_iface.backend_kit import check_batch_and_capacity, check_indices, check_lengths, check_rows, check_step
from genai_iface.capabilities import Capability
from genai_iface.conformance._golden import GOLDEN, Golden
from genai_iface.conformance.decoder.fresh import fresh_weights
from genai_iface.conformance.decoder.plan import PLANS, Plan
from genai_iface.conformance.decoder.reference import logits_of
from genai_iface.conformance.decoder.weights import Weights, weights_of
from genai_iface.errors import CacheOverflowError, CacheRewindError, GenAIError, InvalidInputError
from genai_iface.types import BackendInfo, CacheSpec, Device, LayerCacheSpec, ModelSpec

__all__ = ["OracleBackend", "OracleModel", "Recording"]

_CAPABILITIES = frozenset(
    map(
        str,
        (
            Capability.BATCH,
            Capability.RAGGED,
            Capability.CHUNKED_PREFILL,
            Capability.LOGITS_ALL,
            Capability.REWIND,
            Capability.REORDER,
            Capability.FORK,
            Capability.CACHE_SCATTER,
            Capability.CACHE_CIRCULAR,
        ),
    )
)
_CODES = {CacheOverflowError: "cache_overflow", CacheRewindError: "cache_rewind", InvalidInputError: "invalid_input"}
_CPU = Device("cpu", "cpu")


@dataclass
class Recording:
    """What was asked since it was emptied.

    Attributes:
        steps: As the schema of programs describes them.
        tensors: Expected logits by name.
        models: Names of the models that were used.
        is_whole: Whether every call could be written down.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    is_whole: bool = True
    num_caches: int = 0

    def clear(self) -> None:
        """Begins a new program."""
        self.steps, self.tensors, self.models = [], {}, set()
        self.is_whole, self.num_caches = True, 0

    def add(self, call: str, cache: OracleCache, **values: Any) -> dict[str, Any]:
        """Writes down a call."""
        step = {
            "call": call,
            "cache": cache.number,
            **{name: self._plain(name, value) for name, value in values.items()},
        }
        self.steps.append(step)
        self.models.add(cache.model.name)
        return step

    def _plain(self, name: str, value: Any) -> Any:
        """A value as JSON has it; what is no integer, flat list of them, or None cannot be replayed."""
        if value is None or isinstance(value, str | bool):
            return value
        array = np.asarray(value)
        is_right = array.ndim == 2 if name == "input_ids" else array.ndim <= 1
        self.is_whole &= is_right and (bool(np.issubdtype(array.dtype, np.integer)) or array.size == 0)
        return array.tolist()


class OracleCache:
    """Rows of tokens. Implements ``KVCache``."""

    def __init__(self, model: OracleModel, rows: list[list[int]], capacity: int) -> None:
        self.model, self.rows, self.capacity = model, rows, capacity
        self.is_closed = False
        self.number = model.recording.num_caches
        model.recording.num_caches += 1

    @property
    def batch_size(self) -> int:
        """Rows."""
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(B,)."""
        return np.array([len(row) for row in self.rows], np.int64)

    @property
    def nbytes(self) -> int:
        """As many as a cache of exactly this content has."""
        return 0 if self.is_closed else self.bytes_per_token * int(self.lengths.max()) * self.batch_size

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values of all layers."""
        return self.model.spec.cache.bytes_per_token

    @property
    def update_mode(self) -> str:
        """There are no buffers."""
        return "copied"

    def can_rewind_to(self, lengths: Any, /) -> bool:
        """Whether no ring has lost what is needed."""
        return self._lost(self._checked("can_rewind_to", check_lengths, lengths, self.lengths)) is None

    def rewind_to(self, lengths: Any, /) -> None:
        """Forgets the last tokens."""
        step = self.model.recording.add("rewind_to", self, lengths=lengths)
        with _Refusals(step):
            self._check_open()
            wanted = check_lengths(lengths, self.lengths)
            row = self._lost(wanted)
            if row is not None:
                raise CacheRewindError(row, int(wanted[row]), len(self.rows[row]), "the ring has wrapped")
        self.rows = [row[:length] for row, length in zip(self.rows, wanted.tolist(), strict=True)]
        step["lengths_after"] = self.lengths.tolist()

    def reorder(self, indices: Any, /) -> None:
        """Chooses rows."""
        wanted = self._checked("reorder", check_indices, indices, self.batch_size, name="indices")
        self.rows = [list(self.rows[index]) for index in wanted.tolist()]
        self.model.recording.steps[-1]["lengths_after"] = self.lengths.tolist()

    def reset(self, rows: Any = None, /) -> None:
        """Empties rows."""
        wanted = self._checked("reset", check_rows, rows, self.batch_size, name="rows")
        for row in wanted.tolist():
            self.rows[row] = []
        self.model.recording.steps[-1]["lengths_after"] = self.lengths.tolist()

    def fork(self) -> OracleCache:
        """A copy."""
        self._check_open()
        twin = OracleCache(self.model, [list(row) for row in self.rows], self.capacity)
        self.model.recording.add("fork", self, to=twin.number)
        return twin

    def close(self) -> None:
        """Refuses everything from now on."""
        if not self.is_closed:
            self.model.recording.add("close", self)
        self.is_closed = True

    def _checked(self, call: str, check: Any, value: Any, now: Any, *, name: str = "lengths") -> NDArray[np.int64]:
        step = None if call == "can_rewind_to" else self.model.recording.add(call, self, **{name: value})
        with _Refusals(step):
            self._check_open()
            wanted: NDArray[np.int64] = check(value, now)
        return wanted

    def _lost(self, wanted: NDArray[np.int64]) -> int | None:
        window = self.model.plan.window
        lost = np.flatnonzero((self.lengths > (window or self.capacity)) & (wanted < self.lengths))
        return int(lost[0]) if window and lost.size else None

    def _check_open(self) -> None:
        if self.is_closed:
            raise InvalidInputError("the cache is closed", remedy="Make a new one.")


class OracleModel:
    """The decoder of a golden folder in float64. Implements ``Model``."""

    def __init__(self, recording: Recording, plan: Plan, weights: Weights, golden: Golden, name: str) -> None:
        self.recording, self.plan, self.weights, self.golden, self.name = recording, plan, weights, golden, name
        self.device = _CPU
        lost = Capability.REWIND if plan.window else Capability.CACHE_CIRCULAR
        self.capabilities = _CAPABILITIES - {str(lost)}
        self._known: dict[tuple[int, tuple[int, ...]], NDArray[np.float64]] = {}
        layers = tuple(
            LayerCacheSpec(
                plan.num_kv_heads,
                plan.head_dim,
                plan.head_dim,
                "float32",
                "circular" if plan.window else "linear",
                plan.window_of(index) or plan.fixed_capacity,
            )
            for index in range(plan.layers)
        )
        layout: Any = plan.layout
        self.spec = ModelSpec(plan.vocab_size, plan.context_length, CacheSpec("scatter", layout, layers))

    def create_cache(self, *, batch_size: int = 1, capacity: int | None = None) -> OracleCache:
        """An empty one."""
        fixed = None if self.plan.window else self.plan.fixed_capacity
        limit = min(self.plan.context_length, fixed or self.plan.context_length)
        check_batch_and_capacity(batch_size, capacity, limit)
        cache = OracleCache(self, [[] for _ in range(batch_size)], capacity or limit)
        self.recording.add("create_cache", cache, model=self.name, batch_size=batch_size, capacity=capacity)
        return cache

    def forward(
        self, input_ids: Any, cache: OracleCache, /, *, counts: Any = None, logits: Any = "last"
    ) -> NDArray[np.float32]:
        """The reference's logits, written down with their tolerance."""
        step = self.recording.add("forward", cache, input_ids=input_ids, counts=counts, logits=logits)
        with _Refusals(step):
            cache._check_open()
            if cache.model is not self:
                # A step names its cache, and with it the model.
                self.recording.is_whole = False
                raise InvalidInputError("the cache is another model's", remedy="Make one.")
            asked = check_step(
                input_ids,
                counts,
                logits,
                lengths=cache.lengths,
                capacity=cache.capacity,
                vocab_size=self.plan.vocab_size,
            )
        columns = {"all": asked.input_ids.shape[1], "last": 1, "none": 0}[logits]
        result = np.zeros((cache.batch_size, columns, self.plan.vocab_size), np.float32)
        for row, count in enumerate(asked.counts.tolist()):
            cache.rows[row] = [*cache.rows[row], *asked.input_ids[row, :count].tolist()]
            if count and columns:
                keep = count if logits == "all" else 1
                result[row, :keep] = self._after(tuple(cache.rows[row]), keep)
        step["lengths_after"] = cache.lengths.tolist()
        if result.size and asked.counts.any():
            name = f"logits{len(self.recording.tensors)}"
            self.recording.tensors[name] = result
            largest = float(np.abs(result).max()) / float(np.abs(self.golden.logits).max())
            step["expected"] = {"tensor": name, "tolerance": self.golden.tolerance * max(1.0, largest)}
        return result

    def close(self) -> None:
        """There is nothing to free."""

    def _after(self, tokens: tuple[int, ...], keep: int) -> NDArray[np.float64]:
        if (keep, tokens) not in self._known:
            self._known[keep, tokens] = logits_of(self.plan, self.weights, self.golden.dtype, tokens, keep)
        return self._known[keep, tokens]


class _Refusals:
    """Writes the code of a refusal to its step."""

    def __init__(self, step: dict[str, Any] | None) -> None:
        self.step = step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self.step is not None and isinstance(error, GenAIError):
            self.step["error"] = next(code for known, code in _CODES.items() if isinstance(error, known))


class OracleBackend:
    """Loads golden folders as oracles. Implements ``Backend``, and is its own adapter."""

    name = "reference"

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.recording = Recording()
        self.folders: dict[str, Path] = {}

    def backend(self) -> OracleBackend:
        """Itself."""
        return self

    def info(self) -> BackendInfo:
        """What the reference can do."""
        return BackendInfo(
            name=self.name,
            version="1",
            runtime="float64",
            runtime_version=np.__version__,
            interface_versions=frozenset({1}),
            capabilities=_CAPABILITIES,
            dtypes=frozenset({"float32"}),
        )

    def devices(self) -> Sequence[Device]:
        """One."""
        return [_CPU]

    def load(
        self, folder: Any, /, *, device: str | None = None, options: Mapping[str, Any] | None = None
    ) -> OracleModel:
        """Not by the folder alone.

        Raises:
            InvalidInputError: Always: ``load_golden`` is what there is.
        """
        raise InvalidInputError(f"{folder} is loaded without its references", remedy="Use load_golden.")

    def load_golden(self, golden: Golden) -> OracleModel:
        """A golden model, or a fresh one in NUMBER/NAME/FORM-DTYPE."""
        plan = next(plan for plan in PLANS if plan.name == golden.name)
        is_golden = GOLDEN in golden.folder.parents
        number = 0 if is_golden else int(golden.folder.parents[1].name)
        name = golden.name if is_golden else f"fresh{number}-{golden.name}"
        self.folders[name] = golden.folder
        weights = weights_of(plan) if is_golden else fresh_weights(plan, self.seed + number)
        return OracleModel(self.recording, plan, weights, golden, name)
